"""The clock between steps, and the memory a process held."""

import shlex
import subprocess
import sys
import time

import pytest
import torch

from ipa_cli.hardware import timing

CPU = torch.device("cpu")


def test_steps_are_counted_between_the_first_mark_and_the_last():
    clock = timing.StepClock(CPU)
    began = time.perf_counter()
    for _ in range(4):
        clock.mark()
        time.sleep(0.01)
    assert 0.03 <= clock.seconds <= time.perf_counter() - began - 0.01


@pytest.mark.parametrize("marks", [0, 1])
def test_without_two_marks_no_time_has_passed(marks):
    clock = timing.StepClock(CPU)
    for _ in range(marks):
        clock.mark()
    assert clock.seconds == 0


PEAKS = """
from types import SimpleNamespace
from ipa_cli.hardware.timing import memory
cpu = SimpleNamespace(type="cpu")
before = memory(cpu)
block = b"x" * (256 << 20)
print([*before], before["peak_gib"], memory(cpu)["peak_gib"])
"""


def test_the_peak_on_a_cpu_is_that_of_the_process_in_gib():
    # By a shell between: Linux counts what the process that starts another held as held by the other.
    shell = ["sh", "-c", f"{shlex.quote(sys.executable)} -c {shlex.quote(PEAKS)}; exit $?"]
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    names, before, after = done.stdout.split()
    assert names == "['peak_gib']" and 0 < float(before) < 0.2
    assert 0.24 < float(after) - float(before) < 0.3


@pytest.mark.gpu
def test_on_a_gpu_steps_are_timed_by_the_gpu():
    device = torch.device("cuda")
    clock = timing.StepClock(device)
    square = torch.ones(2048, 2048, device=device)
    for _ in range(5):
        clock.mark()
        square = square @ square / 2048
    assert 0 < clock.seconds < 10
    timing.synchronize(device)
    held = timing.memory(device)
    assert held["reserved_gib"] >= held["peak_gib"] > square.nbytes / 2**30 / 2
