"""Benchmarks make the folders that they write into, however new these are."""

import ast
from pathlib import Path

import pytest

from benchmarks import results

FOLDER = Path(results.__file__).parent
NAMES = {"out", "--out", "--output", "--plot"}  # of arguments that say where a benchmark writes


def writing(path: Path) -> list[ast.Call]:
    """The calls that add such an argument."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    adding = [one for one in calls if isinstance(one.func, ast.Attribute) and one.func.attr == "add_argument"]
    return [one for one in adding if isinstance(one.args[0], ast.Constant) and one.args[0].value in NAMES]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_makes_the_folder_that_it_writes_into(path):
    for call in writing(path):
        types = [word.value.id for word in call.keywords if word.arg == "type" and isinstance(word.value, ast.Name)]
        assert types in (["folder"], ["file"]), f"line {call.lineno}: type=results.folder makes it"
    text = path.read_text()
    assert path.stem == "results" or 'environ["OUT"]' not in text, "results.save makes $OUT"


def test_the_benchmarks_that_write_are_found():
    assert sum(bool(writing(path)) for path in FOLDER.glob("*.py")) >= 6


def test_output_folders_are_made(tmp_path, monkeypatch):
    assert results.folder(str(tmp_path / "a" / "b")).is_dir()
    assert results.file(str(tmp_path / "c" / "d.json")).parent.is_dir()
    results.save("nowhere", "without OUT")
    monkeypatch.setenv("OUT", str(tmp_path / "e" / "f"))
    results.save("figures.json", "{}")
    assert (tmp_path / "e" / "f" / "figures.json").read_text() == "{}"
