"""A batch on several devices: processes that end before their jobs are drawn."""

from __future__ import annotations

import pytest

from ipa_cli.batch import devices
from ipa_cli.batch.jobs import Job
from ipa_cli.batch.task import Bug, Task
from ipa_cli.config import Settings
from ipa_cli.errors import IpaError
from ipa_cli.result import KeepingReporter


def test_a_process_that_ends_is_warned_of_and_the_last_one_ends_the_batch(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "MODULE", "ipa_cli.missing")
    jobs = iter([Job(1, "a", {}), Job(2, "b", {})])
    reporter, task = KeepingReporter(), Task(Settings(), str(tmp_path), 0)
    with pytest.raises(IpaError) as failed:
        devices.draw(["cpu", "cpu"], task, jobs, done=pytest.fail, reporter=reporter)
    why = "the process on cpu has ended: ModuleNotFoundError: No module named 'ipa_cli.missing'"
    assert failed.value.message == why and "--resume" in failed.value.hint
    assert reporter.warnings == [f"{why}; the others take over its jobs"]


def test_an_unforeseen_error_in_a_process_stays_one_with_its_traceback(monkeypatch, tmp_path):
    def started(device, task, events, stack):
        events.put((one, {"bug": "Traceback …\nZeroDivisionError"}))
        return one

    one = devices._Child("cpu", None, tmp_path)
    monkeypatch.setattr(devices._Child, "send", lambda self, **line: None)
    monkeypatch.setattr(devices, "_started", started)
    with pytest.raises(Bug, match="in the process on cpu:\nTraceback …\nZeroDivisionError"):
        devices.draw(
            ["cpu"], Task(Settings(), str(tmp_path), 0), iter([Job(1, "a", {})]), pytest.fail, KeepingReporter()
        )
