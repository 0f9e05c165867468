"""Drawing, decoding and writing beside each other, with an engine whose device is done when a test says so."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import ipa_cli
from ipa_cli.batch import worker
from ipa_cli.batch.jobs import Job
from ipa_cli.batch.task import Task
from ipa_cli.batch.worker import Worker
from ipa_cli.config import Settings, controls, regions
from ipa_cli.engine.drawing import Drawing
from ipa_cli.errors import IpaError
from ipa_cli.result import KeepingReporter, NullReporter

HANG = 60.0


class Device:
    """What an engine that it opens begins, and how it ends: `finish` is called for the picture of each seed.

    `unencodable` has the error with which the job of a seed cannot be encoded.
    """

    def __init__(self, finish=lambda seed: None, unencodable=()):
        self.finish, self.unencodable = finish, dict(unencodable)
        self.begun: list[list[int]] = []
        self.changed = threading.Condition()

    def __call__(self, settings, plan, reporter):
        self.settings, self.plan, self.reporter = settings, plan, reporter
        self.dtype, self.device = "torch.float32", SimpleNamespace(type="cpu")
        return self

    def begin(self, requests):
        seeds = [one.seeds[0] for one in requests]
        for one in requests:
            self.encode([one])
        with self.changed:
            self.begun.append(seeds)
            self.changed.notify_all()
        return [
            SimpleNamespace(
                ready=SimpleNamespace(backend="fake", entry=None), drawing=lambda seed=seed: self._end(seed)
            )
            for seed in seeds
        ]

    def encode(self, requests):
        for one in requests:
            if error := self.unencodable.get(one.seeds[0]):
                raise error

    def _end(self, seed):
        self.finish(seed)
        return Drawing({0: Image.new("RGB", (8, 8), (seed, 0, 0))}, 1, 0.6, 0.2)

    def wait_until_begun(self, count):
        with self.changed:
            return self.changed.wait_for(lambda: len(self.begun) >= count, HANG)

    def close(self):
        pass


def drawn(folder, device, jobs, batch_size=1):
    found, task = [], Task(Settings(backend="eager", steps=1, batch_size=batch_size), str(folder), 0)
    Worker(task, NullReporter(), opened=device).draw(jobs, found.append)
    return {one.id: one for one in found}, len(found)


def jobs(count, **changes):
    return [Job(n + 1, str(n), {"seed": n, **changes}) for n in range(count)]


def test_the_next_batch_begins_before_the_device_is_done_with_the_last(tmp_path):
    device = Device(lambda seed: seed < 2 and (device.wait_until_begun(2) or pytest.fail("it waits")))
    found, count = drawn(tmp_path, device, jobs(6), batch_size=2)
    assert device.begun == [[0, 1], [2, 3], [4, 5]] and count == 6
    assert {one.status for one in found.values()} == {"done"}
    assert (found["0"].steps_s, found["0"].decode_s, found["0"].seconds) == (0.3, 0.1, 0.4)


def test_so_many_pictures_wait_for_the_device_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "WAITING", 2)
    done = threading.Event()
    device = Device(lambda seed: done.wait(HANG))
    thread = threading.Thread(target=drawn, args=(tmp_path, device, jobs(8)))
    thread.start()
    assert device.wait_until_begun(3)  # two that wait, and one for which there is no room yet
    thread.join(0.3)
    most = len(device.begun)
    done.set()
    thread.join(HANG)
    assert most == 3 and len(device.begun) == 8


def test_a_picture_that_comes_out_broken_fails_its_job_alone(tmp_path):
    def finish(seed):
        if seed == 1:
            raise IpaError("the picture came out as NaN")
        if seed == 2:
            raise RuntimeError("CUDA error: an illegal memory access")

    found, count = drawn(tmp_path, Device(finish), jobs(4), batch_size=2)
    assert count == 4 and [found[str(n)].status for n in range(4)] == ["done", "failed", "failed", "done"]
    assert found["1"].error == "the picture came out as NaN" and "illegal memory" in found["2"].error
    assert found["0"].file == "pictures/0.png" and (tmp_path / "pictures" / "3.png").exists()


@pytest.mark.parametrize("error", [IpaError("made for another adapter"), RuntimeError("shapes"), MemoryError()])
@pytest.mark.parametrize("bad", [0, 2, 3])
def test_a_job_that_cannot_be_encoded_fails_alone(tmp_path, error, bad):
    device = Device(unencodable={bad: error})
    found, count = drawn(tmp_path, device, jobs(8), batch_size=4)
    good = [n for n in range(4) if n != bad]
    assert device.begun == [[*good, good[-1]], [4, 5, 6, 7]] and count == 8
    assert [one.id for one in found.values() if one.status == "failed"] == [str(bad)]
    assert (str(error) or "MemoryError") in found[str(bad)].error


def test_jobs_of_which_none_can_be_encoded_fail_each(tmp_path):
    device = Device(unencodable={n: IpaError(f"error {n}") for n in range(3)})
    found, count = drawn(tmp_path, device, jobs(6), batch_size=3)
    assert device.begun == [[3, 4, 5]] and count == 6
    assert [found[str(n)].error for n in range(3)] == ["error 0", "error 1", "error 2"]


@pytest.mark.parametrize("broken", ["drawing", "encode"])
def test_unforeseen_errors_in_a_row_end_the_batch_and_one_does_not(tmp_path, monkeypatch, broken):
    def failing(seeds):
        def fail(*given):
            seed = given[0] if broken == "drawing" else given[0].getpixel((0, 0))[0]
            if seed in seeds:
                raise ZeroDivisionError(f"seed {seed}")
            return b"a picture"

        if broken == "encode":
            monkeypatch.setattr(worker.encode, "encode", fail)
        return Device(fail if broken == "drawing" else lambda seed: None)

    found, _ = drawn(tmp_path, failing({2}), jobs(6))
    assert [one.id for one in found.values() if one.status == "failed"] == ["2"]
    device = failing(range(100))
    with pytest.raises(ZeroDivisionError):
        drawn(tmp_path, device, jobs(100))
    assert len(device.begun) < 100


def test_the_last_jobs_use_the_graph_of_the_batches_before_them(tmp_path):
    device = Device()
    found, count = drawn(tmp_path, device, jobs(5), batch_size=2)
    assert device.begun == [[0, 1], [2, 3], [4, 4]]
    assert count == len(found) == 5


def test_jobs_that_no_batch_came_before_are_drawn_one_by_one(tmp_path):
    device = Device()
    wide = [Job(n, f"wide-{n}", {"seed": n, "width": 128}) for n in (5, 6)]
    _, count = drawn(tmp_path, device, [*jobs(4), *wide], batch_size=3)
    assert device.begun == [[0, 1, 2], [3, 3, 3], [5], [6]] and count == 6


def test_jobs_that_come_later_use_the_graph_of_a_batch_before_them(tmp_path):
    device, task = Device(), Task(Settings(backend="eager", steps=1, batch_size=2), str(tmp_path), 0)
    drawer, found = Worker(task, NullReporter(), opened=device), []
    drawer.draw(jobs(2), found.append)
    drawer.draw(jobs(3)[2:], found.append)
    assert device.begun == [[0, 1], [2, 2]] and len(found) == 3


def test_a_job_that_fails_splits_no_batch(tmp_path):
    device = Device()
    each = [*jobs(1), Job(9, "bad", {"image": "none.png"}), *jobs(4)[1:]]
    found, _ = drawn(tmp_path, device, each, batch_size=2)
    assert device.begun == [[0, 1], [2, 3]] and found["bad"].status == "failed"


def test_prompts_too_long_for_a_jpeg_fail_their_job_before_it_is_drawn(tmp_path):
    device, found = Device(), []
    task = Task(Settings(backend="eager", steps=1), str(tmp_path), 0, suffix=".jpg")
    both = [Job(1, "long", {"prompt": "a star " * 1200, "negative_prompt": "a moon " * 1200}), *jobs(1)]
    Worker(task, NullReporter(), opened=device).draw(both, found.append)
    assert [(one.id, one.error) for one in found if one.error] == [("long", "the prompt is too long for a JPEG")]
    assert device.begun == [[0]]


def test_prompts_of_regions_are_looked_at_too(tmp_path):
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    reporter, found = KeepingReporter(), []
    job = Job(1, "a", {"region": (regions.parse(f"mask={tmp_path / 'mask.png'},prompt=(a red star", ""),)})
    Worker(Task(Settings(backend="eager", steps=1), str(tmp_path), 0), reporter, opened=Device()).draw(
        [job], found.append
    )
    assert "a ( is not closed" in " ".join(reporter.warnings), (reporter.warnings, found)


def test_a_map_that_is_stretched_is_a_warning(tmp_path):
    Image.new("L", (128, 64)).save(tmp_path / "wide.png")
    reporter, found = KeepingReporter(), []
    network = Path(ipa_cli.__file__).parent / "demo" / "controlnet"
    control = (controls.parse(f"{network},image={tmp_path / 'wide.png'}", "--control"),)
    settings = Settings(backend="eager", steps=1, width=64, height=64, control=control)
    Worker(Task(settings, str(tmp_path), 0), reporter, opened=Device()).draw(jobs(2), found.append)
    assert [one.status for one in found] == ["done", "done"]
    (said,) = [text for text in reporter.warnings if "it is stretched" in text]
    assert "wide.png is 128x64, the picture 64x64" in said


def test_of_two_threads_one_draws_while_pictures_of_the_other_are_written(tmp_path):
    first, beside = threading.Event(), []
    device = Device(lambda seed: seed or first.wait(HANG))
    begin, busy = device.begin, threading.Lock()

    def alone(requests):
        beside.append(not busy.acquire(blocking=False))
        try:
            return begin(requests)
        finally:
            busy.release()

    device.begin = alone
    found, task = [], Task(Settings(backend="eager", steps=1), str(tmp_path), 0)
    drawer = Worker(task, NullReporter(), opened=device)
    jobs = [[Job(1, "0", {"seed": 0})], [Job(n, str(n), {"seed": n}) for n in range(2, 6)]]
    threads = [threading.Thread(target=drawer.draw, args=(each, found.append)) for each in jobs]
    threads[0].start()
    assert device.wait_until_begun(1)
    threads[1].start()
    threads[1].join(HANG)
    assert [one.id for one in found] and "0" not in [one.id for one in found], "the first is not written yet"
    first.set()
    threads[0].join(HANG)
    assert sorted(one.id for one in found) == ["0", "2", "3", "4", "5"] and beside == [False] * 5
