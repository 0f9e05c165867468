"""The stream that encodes and the one that draws: which waits for which, also after errors."""

from contextlib import contextmanager

import pytest
import torch

from ipa_cli.engine.side_stream import SideStream

GPU = torch.device("cuda:1")


class Stream:
    """A stream that notes what it waits for."""

    def __init__(self, name, log):
        self.name, self._log = name, log

    def wait_stream(self, other):
        self._log.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def log(monkeypatch):
    """What the streams of a pretended second GPU do."""
    done = []
    streams = {"now": Stream("main", done)}

    def made(device, priority):
        assert device == GPU and priority < 0
        done.append("made")
        return Stream("side", done)

    @contextmanager
    def entered(stream):
        before, streams["now"] = streams["now"], stream
        try:
            yield
        finally:
            streams["now"] = before

    def current(device):
        assert device == GPU
        return streams["now"]

    monkeypatch.setattr(torch.cuda, "Stream", made)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", current)
    return done


def work(side, log):
    with side.running():
        log.append(f"work on {torch.cuda.current_stream(GPU).name}")


def test_the_first_work_waits_for_what_the_gpu_was_given_and_the_next_for_nothing(log):
    side = SideStream(GPU)
    work(side, log)
    work(side, log)
    assert log == [
        *("made", "side waits for main", "work on side", "main waits for side"),
        *("work on side", "main waits for side"),
    ]


def test_the_next_work_waits_once_where_it_was_said(log):
    side = SideStream(GPU)
    work(side, log)
    side.wait_for_current()
    del log[:]
    work(side, log)
    work(side, log)
    assert log.count("side waits for main") == 1 and log[0] == "side waits for main"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_the_gpu_is_given_after_work_that_failed_waits_for_it_too(log, error):
    side = SideStream(GPU)
    with pytest.raises(error), side.running():
        raise error
    assert log[-1] == "main waits for side"
    work(side, log)
    assert log[-1] == "main waits for side"


def test_memory_is_kept_for_the_stream_that_draws(log):
    class Tensor:
        def record_stream(self, stream):
            log.append(f"kept for {stream.name}")

    side = SideStream(GPU)
    work(side, log)
    side.record([Tensor(), Tensor()])
    assert log[-2:] == ["kept for main"] * 2


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_other_devices_have_no_streams(log, device):
    side = SideStream(torch.device(device))
    with side.running():
        log.append("work")
    side.record([torch.zeros(1)])
    assert log == ["work"]
