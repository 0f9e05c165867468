import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_wheel_carries_code_demo_and_presets(tmp_path):
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    files = (path for path in (ROOT / "ipa_cli").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {path.relative_to(ROOT).as_posix() for path in files} <= set(names)
    assert {"ipa_cli/demo/unet/diffusion_pytorch_model.safetensors", "ipa_cli/presets/sdxl/unet/config.json"} <= set(
        names
    )
    assert not [name for name in names if name.startswith("tests/")]
    assert "ipa = ipa_cli.app:main" in entry_points
    assert wheel.stat().st_size < 40e6


def test_every_dependency_is_pinned_to_what_was_tested():
    named = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M)
    assert named is not None
    wanted = {name for name in re.findall(r'^\s*"([\w-]+)', named[1], re.M) if name != "tomli"}
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {name.lower().replace("_", "-") for name in wanted} <= {name.lower().replace("_", "-") for name in pinned}
    assert pinned["torch"] == "2.13.0"
