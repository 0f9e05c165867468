"""Transfers on slow lines, on lines that die, and transfers that are interrupted."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from ipa_cli.cache.remote import location, offers
from ipa_cli.cache.remote.location import Remote, RemoteError


class Sent:
    """A file of an object store that is written in parts, as fsspec has them; `writes` does each."""

    def __init__(self, writes=lambda part: None):
        self.writes, self.parts = writes, []
        self.closed = self.completed = self.discarded = False

    def write(self, part):
        self.writes(part)
        self.parts.append(len(part))

    def close(self):
        self.closed = self.completed = True

    def discard(self):
        self.discarded = True


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "graph.pt2"
    path.write_bytes(bytes(12 << 20))
    return path


def place(monkeypatch, target: Sent, url: str = "s3://bucket/graphs") -> Remote:
    """A place in which every new file is `target`."""

    def opened(path, mode, block_size):
        assert block_size >= location.S3_PART or not url.startswith("s3")
        return target

    system = SimpleNamespace(makedirs=lambda path, exist_ok: None, open=opened)
    monkeypatch.setattr(location.remote, "opened", lambda url: (system, "bucket/graphs"))
    return Remote(url)


@pytest.mark.parametrize(
    ("url", "parts"), [("s3://bucket/graphs", [5 << 20, 5 << 20, 2 << 20]), ("gs://bucket/graphs", [1 << 20] * 12)]
)
def test_a_file_is_sent_in_the_smallest_parts_that_are_taken(monkeypatch, source, url, parts):
    target, sent = Sent(), []
    place(monkeypatch, target, url).send("blob", source, sent.append)
    assert target.parts == sent == parts
    assert target.completed and not target.discarded


def test_a_part_may_take_longer_than_the_silence_that_ends_a_transfer(monkeypatch, source):
    monkeypatch.setattr(location, "SILENCE", 0.01)
    monkeypatch.setattr(location, "SLOWEST", 1 << 20)  # 5 s for a part
    target = Sent(lambda part: time.sleep(0.1))
    place(monkeypatch, target).send("blob", source, lambda count: None)
    assert target.completed


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, SystemExit])
def test_of_a_push_that_is_interrupted_no_unfinished_upload_is_left(monkeypatch, source, stopped):
    def advance(count):
        raise stopped

    target = Sent()
    with pytest.raises(stopped):
        place(monkeypatch, target).send("blob", source, advance)
    assert target.discarded and target.closed and not target.completed


def test_of_a_push_on_a_line_that_dies_no_unfinished_upload_is_left(monkeypatch, source):
    monkeypatch.setattr(location, "SILENCE", 0.1)
    monkeypatch.setattr(location, "SLOWEST", 1 << 30)
    target = Sent(lambda part: time.sleep(1))
    with pytest.raises(RemoteError, match="does not answer within"):
        place(monkeypatch, target).send("blob", source, lambda count: None)
    assert target.discarded and not target.completed


def test_what_azures_file_system_raises_is_a_failure_of_the_remote(monkeypatch, source):
    def fails(part):
        raise RuntimeError("Failed to upload block") from OSError("the line is down")

    with pytest.raises(RemoteError, match="the line is down"):
        place(monkeypatch, Sent(fails), "az://container/graphs").send("blob", source, lambda count: None)


class Line:
    """A file that comes at so many bytes a second, on a clock of its own; `took` has the seconds of each request."""

    def __init__(self, per_second: float):
        self.per_second, self.now, self.took, self.counts = per_second, 0.0, [], []

    def monotonic(self) -> float:
        return self.now

    def read(self, count: int) -> bytes:
        self.counts.append(count)
        self.took.append(0.05 + count / self.per_second)
        self.now += self.took[-1]
        return bytes(count)


@pytest.mark.parametrize("per_second", [16 << 10, 64 << 10, 125_000, 1 << 20])
def test_on_a_slow_line_every_request_is_short(monkeypatch, per_second):
    line, remote = Line(per_second), Remote("memory://")
    monkeypatch.setattr(location, "time", line)
    for _ in range(30):
        remote._next(line, 1 << 30)
    assert max(line.took) < 5


def test_on_a_fast_line_requests_grow_and_on_one_that_gets_slow_they_shrink(monkeypatch):
    line, remote = Line(100e6), Remote("memory://")
    monkeypatch.setattr(location, "time", line)
    for _ in range(9):
        remote._next(line, 1 << 30)
    assert line.counts[-1] == location.PARTS[1]
    line.per_second = 500_000
    for _ in range(5):
        remote._next(line, 1 << 30)
    assert line.took[-1] < 5
    assert remote._next(line, 10) == bytes(10)


def test_manifests_are_read_several_at_once_and_come_in_their_order(monkeypatch):
    together = threading.Barrier(offers.AT_ONCE)

    def read(place, name):
        together.wait(60)  # until as many are read as may be
        if name == "3":
            raise RemoteError("it is silent", "")
        return name

    monkeypatch.setattr(offers, "read", read)
    names = [str(number) for number in range(2 * offers.AT_ONCE)]
    ahead = offers.read_ahead(Remote("memory://graphs"), names)
    assert [str(one.exception() or one.result()) for one in ahead] == [*names[:3], "it is silent", *names[4:]]


def test_no_more_manifests_are_read_than_are_asked_for(monkeypatch):
    begun = []
    monkeypatch.setattr(offers, "read", lambda place, name: begun.append(name))
    ahead = offers.read_ahead(Remote("memory://graphs"), map(str, range(1000)))
    next(ahead).result()
    ahead.close()
    assert len(begun) <= offers.AT_ONCE
