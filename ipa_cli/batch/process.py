"""Jobs drawn in a process of its own, on one device: see `devices`, which starts it with `system.child`."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ipa_cli.batch import jobs, task
from ipa_cli.batch.journal import Outcome
from ipa_cli.batch.worker import Worker
from ipa_cli.errors import IpaError
from ipa_cli.result import NullReporter
from ipa_cli.system import child


def main() -> None:
    """Read the task, then a job a line, and answer with each outcome, until it is ended.

    A line without a job says that no other waits: what was held back for a batch is drawn.
    """
    lines, send = child.serve()
    lock = threading.Lock()

    def say(**answer: Any) -> None:
        with lock:
            send(answer)

    class Sending(NullReporter):
        def warn(self, text: str) -> None:
            say(warning=text)

    def arriving() -> Iterator[jobs.Job]:
        for line in lines:
            if "job" not in line:
                return
            yield jobs.of_json(line["job"])

    def done(outcome: Outcome) -> None:
        say(outcome=asdict(outcome))

    first = next(lines)
    os.chdir(first["folder"])  # relative paths are as they were typed
    try:
        drawer = Worker(task.of_json(first["task"]), Sending())
        while True:
            drawer.draw(arriving(), done)
    except IpaError as error:
        say(failed=error.message, hint=error.hint)
    except Exception:
        say(bug=traceback.format_exc())
