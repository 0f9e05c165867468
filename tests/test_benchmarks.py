"""Benchmarks make the folders that they write into, however new these are."""

import ast
from pathlib import Path

import pytest

from benchmarks import results, scaling

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


@pytest.mark.parametrize(
    "name, drawing, places",
    [
        ("half", (), ()),
        ("fp8-by-8-on-2-killed", ("--precision", "fp8", "--batch-size", "8"), ("--devices", "cuda:0,cuda:1")),
        ("half-by-4-ray-8", ("--batch-size", "4"), ("--ray", "local", "--actors", "8")),
    ],
)
def test_a_way_of_drawing_a_batch_is_read_from_its_name(name, drawing, places):
    way = scaling.way_of(name)
    assert (way.drawing, way.places("cuda"), way.killed) == (drawing, places, name.endswith("killed"))
    with pytest.raises(SystemExit, match="is no way"):
        scaling.way_of(f"{name}-twice")


def test_efficiency_is_that_of_one_gpu_in_the_same_run(tmp_path):
    speeds = {"fp8-by-8-on-1": 2.0, "fp8-by-8-on-2": 3.9, "fp8-by-8-ray-2": 3.8, "half-on-2": 2.0}
    measured = [{"way": way, "pictures_per_s": speed} for way, speed in speeds.items()]
    found = scaling.with_efficiency(measured)
    assert [one.get("efficiency") for one in found] == [1.0, 0.975, 0.95, None]
    assert "| fp8, 8 at once, `--devices` | 2 | 3.90 | 0.975 |" in scaling.table(found)
    scaling.plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
