"""Measuring the choices of the table, with times that are made up."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

from ipa_cli.backends.inductor import tuner, tuning
from ipa_cli.errors import IpaError, UsageError

FIRST, SECOND = tuning.CrossAttention(128, 128, 8), tuning.CrossAttention(64, 128, 4)


class Call:
    """Computes ones, or fails for the choices that it is given."""

    def __init__(self, failing=(), wrong=()):
        self.failing, self.wrong = failing, wrong

    def __call__(self, choice):
        if choice in self.failing:
            raise RuntimeError("out of resources")
        return torch.full((4,), 2.0 if choice in self.wrong else 1.0)


@pytest.fixture
def measured(monkeypatch):
    def measure(times, **call):
        monkeypatch.setattr(tuner, "milliseconds", lambda timed: times[timed.args[0]])
        trials = [tuner.Trial(10, Call(**call)), tuner.Trial(60, Call(**call))]
        return tuner._measure("cross_attention", (FIRST, SECOND, None), trials)

    return measure


@pytest.fixture(autouse=True)
def triton(monkeypatch):
    """Triton's errors, where there is no Triton."""
    if importlib.util.find_spec("triton") is None:
        errors = SimpleNamespace(TritonError=type("TritonError", (Exception,), {}))
        monkeypatch.setitem(sys.modules, "triton.runtime.errors", errors)


def test_the_fastest_choice_is_taken(measured):
    found = measured({FIRST: 1.0, SECOND: 0.5, None: 2.0})
    assert (found.choice, found.is_first) == (list(SECOND), False)
    assert found.measured == [(list(FIRST), 70.0), (list(SECOND), 35.0), (None, 140.0)]


def test_torch_is_taken_where_it_is_faster(measured):
    assert measured({FIRST: 1.0, SECOND: 0.5, None: 0.1}).choice is None


def test_the_first_choice_stays_unless_another_is_clearly_faster(measured):
    assert measured({FIRST: 1.0, SECOND: 0.98, None: 2.0}).is_first


def test_what_does_not_run_or_computes_something_else_is_not_taken(measured):
    found = measured({FIRST: 1.0, SECOND: 0.5, None: 2.0}, failing=[SECOND])
    assert found.is_first and found.measured[1] == (list(SECOND), None)
    assert measured({FIRST: 1.0, SECOND: 0.5, None: 2.0}, wrong=[SECOND]).is_first
    assert measured({SECOND: 3.0, None: 2.0}, failing=[FIRST]).choice is None


def test_older_gpus_and_single_precision_have_nothing_to_tune(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_: (7, 5))
    with pytest.raises(IpaError, match="nothing to tune"):
        tuner.tune(torch.device("cuda"), torch.float16, print)
    with pytest.raises(UsageError, match="half precision"):
        tuner.tune(torch.device("cuda"), torch.float32, print)
