"""The page and the notebook of the Python API, run as they stand there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import ipa_cli

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
DEMO = Path(ipa_cli.__file__).parent / "demo"
QUICK = {"IPA_STEPS": "2", "IPA_WIDTH": "64", "IPA_HEIGHT": "64", "IPA_DEVICE": "cpu"}
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def pictures(world, monkeypatch):
    """A working directory with the pictures that the page names, where everything is small."""
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    for name in ("cat.png", "dog.png"):
        shutil.copy(DEMO / "reference.png", world.cwd / name)
    return world


def test_the_code_of_the_page_runs(pictures):
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert len(BLOCKS) > 5
    assert {"fox.png", "scale-0.png", "scale-1.png"} <= set(pictures.files())


def test_the_notebook_runs(pictures):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "docs" / "api.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    done = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(pictures.cwd)}}
    ).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a picture shows itself"
    assert (pictures.cwd / "fox.png").exists()
