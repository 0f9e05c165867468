"""Jobs drawn on several devices of this host: a process for each, which gets another job for each that it ends."""

from __future__ import annotations

import json
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ipa_cli.batch.jobs import Job
from ipa_cli.batch.journal import Outcome
from ipa_cli.batch.prepared import AHEAD
from ipa_cli.batch.task import Bug, Task
from ipa_cli.batch.worker import waiting
from ipa_cli.config.privacy import public_text
from ipa_cli.errors import RESUME_HINT, IpaError
from ipa_cli.result import Reporter
from ipa_cli.system import child

if TYPE_CHECKING:
    import subprocess

MODULE = "ipa_cli.batch.process"


@dataclass(eq=False)
class _Child:
    """A process on a device, and the jobs that it has and has not answered, by number."""

    device: str
    process: subprocess.Popen[str]
    log: Path
    jobs: dict[int, Job] = field(default_factory=dict)

    def send(self, **line: Any) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # its end arrives as an event
            self.process.stdin.write(json.dumps(line) + "\n")
            self.process.stdin.flush()

    def why(self) -> str:
        """Why it ended."""
        log = self.log.read_text(encoding="utf-8", errors="replace")
        return child.Ended(self.process.wait(), err=public_text(log)).why


def draw(
    devices: Sequence[str], task: Task, jobs: Iterator[Job], done: Callable[[Outcome], None], reporter: Reporter
) -> None:
    """Draw all jobs; those of a process that dies go to the others. Raises IpaError when none is left."""
    size = task.settings.batch_size
    room = waiting(task.settings) + AHEAD + 3 * size  # jobs that a process has at once, whole batches of them
    returned: deque[Job] = deque()
    events: SimpleQueue[tuple[_Child, Any]] = SimpleQueue()

    def feed(one: _Child) -> None:
        while len(one.jobs) + size <= room:
            for _ in range(size):
                job = returned.popleft() if returned else next(jobs, None)
                if job is None:
                    one.send(no_more=True)
                    return
                one.jobs[job.number] = job
                one.send(job=job.as_json())

    with ExitStack() as stack:
        alive = [_started(device, task, events, stack) for device in devices]
        for one in alive:
            feed(one)
        while any(one.jobs for one in alive):
            one, answer = events.get()
            if answer is None:
                alive.remove(one)
                returned.extend(one.jobs.values())
                lost = f"the process on {one.device} has ended: {one.why()}"
                if not alive:
                    raise IpaError(lost, RESUME_HINT)
                reporter.warn(f"{lost}; the others take over its jobs")
                for other in alive:
                    feed(other)
            elif "outcome" in answer:
                outcome = Outcome(**answer["outcome"])
                if one.jobs.pop(outcome.job, None) is not None:
                    done(outcome)
                feed(one)
            elif "warning" in answer:
                reporter.warn(f"{one.device}: {answer['warning']}")
            elif "bug" in answer:
                raise Bug(f"in the process on {one.device}:\n{answer['bug']}")
            elif "failed" in answer:
                raise IpaError(answer["failed"], answer["hint"] or RESUME_HINT)


def _started(device: str, task: Task, events: SimpleQueue[tuple[_Child, Any]], stack: ExitStack) -> _Child:
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ipa-batch-")))
    log = scratch / "log"
    stderr = stack.enter_context(log.open("w"))
    process = child.start(MODULE, scratch, stderr)
    stack.callback(child.end, process)
    one = _Child(device, process, log)
    own = replace(task, settings=replace(task.settings, device=device))
    one.send(task=own.as_json(), folder=str(Path.cwd()))

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValueError):
                events.put((one, json.loads(line)))
        events.put((one, None))

    threading.Thread(target=listen, daemon=True).start()
    return one
