"""A stream beside the one that draws: which waits for which, whatever happens in between."""

from contextlib import contextmanager

import pytest
import torch

from ipa_cli.engine.beside import Beside

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
        return Stream("beside", done)

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


def work(beside, log):
    with beside.working():
        log.append(f"work on {torch.cuda.current_stream(GPU).name}")


def test_the_first_work_waits_for_what_the_gpu_was_given_and_the_next_for_nothing(log):
    beside = Beside(GPU)
    work(beside, log)
    work(beside, log)
    assert log == [
        *("made", "beside waits for main", "work on beside", "main waits for beside"),
        *("work on beside", "main waits for beside"),
    ]


def test_the_next_work_waits_once_where_it_was_said(log):
    beside = Beside(GPU)
    work(beside, log)
    beside.wait()
    del log[:]
    work(beside, log)
    work(beside, log)
    assert log.count("beside waits for main") == 1 and log[0] == "beside waits for main"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_the_gpu_is_given_after_work_that_failed_waits_for_it_too(log, error):
    beside = Beside(GPU)
    with pytest.raises(error), beside.working():
        raise error
    assert log[-1] == "main waits for beside"
    work(beside, log)
    assert log[-1] == "main waits for beside"


def test_memory_is_kept_for_the_stream_that_draws(log):
    class Tensor:
        def record_stream(self, stream):
            log.append(f"kept for {stream.name}")

    beside = Beside(GPU)
    work(beside, log)
    beside.hand_over([Tensor(), Tensor()])
    assert log[-2:] == ["kept for main"] * 2


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_other_devices_have_no_streams(log, device):
    beside = Beside(torch.device(device))
    with beside.working():
        log.append("work")
    beside.hand_over([torch.zeros(1)])
    assert log == ["work"]
