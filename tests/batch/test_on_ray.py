"""What `--ray` draws, without Ray: actors in this process take the place of its. See `test_ray.py` for a cluster."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from ipa_cli.batch import on_ray
from ipa_cli.batch.task import Bug, Task
from ipa_cli.cache.locks import hold_lock_file, is_lock_file_held
from ipa_cli.config import Settings
from ipa_cli.errors import IpaError

pytestmark = pytest.mark.slow
QUICK = ("--steps", 1, "--device", "cpu", "--backend", "eager")
SWEEP = (*QUICK, "--size", "64x64", "--scales", "0,1", "--seed", 5)


@pytest.fixture
def actors(monkeypatch):
    """Two actors that take turns; `lines` may change what they answer."""
    found = SimpleNamespace(together=[], answered=lambda lines: lines)
    nodes = [{"Alive": True}] * 2
    ray = SimpleNamespace(cluster_resources=lambda: {}, nodes=lambda: nodes, shutdown=lambda: None)

    def lines(place, names, task, count, together, gpu, opened):
        found.together.append(together)
        jobs = [line for name in names for line in Path(place.name, name).read_text().splitlines()]
        each = [on_ray.Drawer(task.as_json(), ".", opened) for _ in range(count)]
        for number, at in enumerate(range(0, len(jobs), together)):
            yield from found.answered(each[number % count]({"text": jobs[at : at + together]})["line"])

    monkeypatch.setattr(on_ray, "_connected", lambda address, lasting: ray)
    monkeypatch.setattr(on_ray, "_lines", lines)
    return found


@pytest.fixture(autouse=True)
def references(world):
    for name, colour in (("cat", "orange"), ("dog", "navy")):
        Image.new("RGB", (48, 48), colour).save(f"{name}.png")


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize(
    "axes",
    [
        ("-i", "cat.png", "-i", "dog.png", "-p", "a (star:1.2)", "-p", "a moon", "--size", "64x96"),
        ("-i", "cat.png", "--ip-mode", "full", "--ip-mode", "style", "--lora", "demo", "--lora-weights", "0.3,1"),
        ("--adapter", "own,image=cat.png", "--adapter", "own,image=dog.png,scale=0.2", "--guidance-scale", 1),
    ],
    ids=["pictures", "modes", "adapters"],
)
def test_a_sweep_by_actors_leaves_the_same_files(ipa, actors, axes):
    assert ipa("sweep-scale", *SWEEP, *axes, "--warmup", 0, "-o", "here").exit_code == 0
    data = ipa("sweep-scale", *SWEEP, *axes, "--ray", "auto", "-o", "there", "--json").data()
    assert data["drawn"] == len(data["points"]) and data["recompiles"] is None
    assert contents("there") == contents("here")


def test_a_sweep_that_broke_off_is_resumed_and_leaves_the_same_files(ipa, actors):
    flags = ("sweep-scale", *SWEEP, "-i", "cat.png", "-i", "dog.png", "-p", "a star")
    assert ipa(*flags, "--warmup", 0, "-o", "here").exit_code == 0
    actors.answered = lambda lines: iter(()) if any('"job": 3' in line for line in lines) else lines
    lost = ipa(*flags, "--ray", "auto", "-o", "there")
    assert lost.exit_code == 1 and "1 picture came back without a result" in lost.stderr
    actors.answered = lambda lines: lines
    data = ipa(*flags, "--ray", "auto", "-o", "there", "--resume", "--json").data()
    assert data["drawn"] == 1 and contents("there") == contents("here")
    assert ipa(*flags, "-o", "there", "--resume", "--json").data()["drawn"] == 0


def test_machines_that_draw_otherwise_are_warned_of_once(ipa, actors):
    answers = iter(range(100))
    actors.answered = lambda lines: [line.replace('"torch": "', f'"torch": "{next(answers) > 1}') for line in lines]
    ran = ipa("sweep-scale", *SWEEP, "-i", "cat.png", "-p", "a", "-p", "b", "--ray", "auto", "--actors", 4, "-o", "out")
    assert ran.exit_code == 0 and ran.stderr.count("may differ in rounding: torch") == 1


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--actors", 2), "--actors is for --ray"),
        (("--ray", "auto", "-i", "-"), "stdin is not theirs"),
    ],
)
def test_what_cannot_be_drawn_elsewhere_is_a_line(ipa, flags, said):
    ran = ipa("sweep-scale", *SWEEP, "-i", "cat.png", *flags, "-o", "out")
    assert ran.exit_code in (1, 2) and said in ran.stderr and "Traceback" not in ran.stderr


def test_few_jobs_are_shared_out_evenly(ipa, actors):
    lines = [json.dumps({"id": str(number), "seed": number}) for number in range(16)]
    Path("jobs.jsonl").write_text("\n".join(lines))
    Path("out/.spool-killed").mkdir(parents=True)
    assert ipa("batch", "jobs.jsonl", *QUICK, "--size", "64x64", "--ray", "auto", "-o", "out").exit_code == 0
    assert actors.together == [1] and len(list(Path("out/pictures").iterdir())) == 16
    assert not list(Path("out").glob(".spool-*"))


@pytest.mark.parametrize(
    "share, batch_size, together",
    [(0, 1, 1), (5, 1, 5), (100, 1, 16), (12, 8, 8), (100, 8, 16), (1, 8, 8), (100, 12, 12), (100, 32, 32)],
)
def test_actors_get_whole_batches(share, batch_size, together):
    assert on_ray._together(on_ray.TOGETHER, share, batch_size) == together


def test_a_cluster_that_does_not_start_leaves_no_folder_behind_nor_one_of_a_killed_driver(tmp_path, monkeypatch):
    seen = []

    def init(_temp_dir, **_):
        seen.append(sorted(path.name for path in tmp_path.glob("ray-*")))
        assert is_lock_file_held(Path(_temp_dir, on_ray.LOCK))
        raise ConnectionError("no memory")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    monkeypatch.setattr(on_ray, "TEMP_DIR", tmp_path)
    for name in ("ray-killed", "ray-running", "ray-of-another-program"):
        Path(tmp_path, name).mkdir()
    Path(tmp_path, "ray-killed", on_ray.LOCK).touch()
    with hold_lock_file(Path(tmp_path, "ray-running", on_ray.LOCK)), ExitStack() as lasting:
        with pytest.raises(IpaError, match="there is no Ray cluster at local: no memory"):
            on_ray._connected(on_ray.LOCAL, lasting)
        assert len(seen[0]) == 3 and "ray-killed" not in seen[0]
    assert sorted(path.name for path in tmp_path.glob("ray-*")) == ["ray-of-another-program", "ray-running"]


def test_an_unforeseen_error_in_an_actor_stays_one_with_its_traceback(tmp_path):
    task = Task(Settings(device="cpu"), str(tmp_path), 0).as_json()
    with pytest.raises(Bug, match=r"JSONDecodeError") as raised:
        on_ray.Drawer(task, ".", None)({"text": ["no job"]})
    error = RuntimeError("by Ray")
    error.cause = raised.value
    assert "in an actor:\nTraceback" in str(on_ray._explained(error))


def test_without_ray_the_hint_says_how_to_get_it(ipa, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = ipa("sweep-scale", *SWEEP, "-i", "cat.png", "--ray", "local", "-o", "out")
    assert ran.exit_code == 1 and "--ray needs Ray" in ran.stderr and "pip install 'ipa-cli[ray]'" in ran.stderr
