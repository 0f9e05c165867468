"""What `python -m build` makes: a wheel that draws by itself, an sdist with everything, a page for PyPI."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # builds
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder with a wheel and an sdist of this checkout."""
    pytest.importorskip("hatchling")
    pytest.importorskip("hatch_fancy_pypi_readme")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        yield archive


@pytest.fixture(scope="module")
def page(wheel) -> str:
    """The README as PyPI shows it."""
    metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return wheel.read(metadata).decode().partition("\n\n")[2]


def test_the_wheel_carries_code_demo_and_presets_and_no_tests(built, wheel):
    names = set(wheel.namelist())
    files = (path for path in (ROOT / "ipa_cli").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {path.relative_to(ROOT).as_posix() for path in files} <= names
    assert {
        "ipa_cli/demo/unet/diffusion_pytorch_model.safetensors",
        "ipa_cli/demo/reference.png",
        "ipa_cli/presets/sdxl/unet/config.json",
        "ipa_cli/presets/tokenizer/merges.txt",
        *(f"ipa_cli/sweep/templates/page.{kind}" for kind in ("html", "css", "js")),
        *(f"ipa_cli/serve/static/{name}" for name in ("index.html", "docs.html", "style.css", "page.js")),
    } <= names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"ipa_cli"}
    entry_points = next(name for name in names if name.endswith("entry_points.txt"))
    assert b"ipa = ipa_cli.__main__:main" in wheel.read(entry_points)
    assert next(built.glob("*.whl")).stat().st_size < 40e6


def test_the_sdist_carries_what_tests_and_docs_need(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        *("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "constraints.txt", "noxfile.py"),
        *("tests/conftest.py", "tests/test_packaging.py", "tests/hostile/__main__.py", "ipa_cli/demo/reference.png"),
        *("docs/compiling.md", "training/sheet.jpg", "benchmarks/bench.png", "completions/ipa.bash", ".ci/run"),
    } <= names
    assert not {name for name in names if re.match(r"\.venv|.*__pycache__|\.git/|dist/", name)}


def test_links_and_pictures_of_the_page_are_addresses(page):
    repository = _repository()
    targets = re.findall(r"\]\(([^)\s]+)\)", page)
    pictures = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", page)
    assert targets and all(target.startswith(("https://", "#")) for target in targets)
    assert pictures and all(picture.startswith(f"{repository}/raw/HEAD/") for picture in pictures)
    for target in targets:
        inside = re.match(rf"{re.escape(repository)}/(?:raw|blob)/HEAD/([^#]*)", target)
        assert not inside or (ROOT / inside[1]).exists(), target


def test_the_repository_has_one_address():
    """Every address in pyproject.toml is below `[project.urls] Repository`."""
    addresses = re.findall(r"https://[^\s\"')]+", PROJECT)
    assert len(addresses) > 3 and all(address.startswith(_repository()) for address in addresses)


def test_twine_accepts_both(built):
    pytest.importorskip("twine")
    files = [str(path) for path in built.iterdir() if path.suffix in (".whl", ".gz")]
    check = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(check, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr


def test_every_dependency_is_pinned_to_what_was_tested():
    named = re.search(r"^dependencies = \[(.*?)^\]", PROJECT, re.S | re.M)
    assert named is not None
    wanted = {name for name in re.findall(r'^\s*"([\w-]+)', named[1], re.M) if name != "tomli"}
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {name.lower().replace("_", "-") for name in wanted} <= {name.lower().replace("_", "-") for name in pinned}
    assert pinned["torch"] == "2.13.0"


def _repository() -> str:
    found = re.search(r'^Repository = "(https://[^"]+)"$', PROJECT, re.MULTILINE)
    assert found is not None
    return found[1]
