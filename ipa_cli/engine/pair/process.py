"""The process for a second device: started, told what to do, watched while something waits for it, and ended."""

from __future__ import annotations

import atexit
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.config.privacy import public_text
from ipa_cli.engine.pair.link import Kind, Link, described
from ipa_cli.errors import IpaError
from ipa_cli.system import child

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MODULE = "ipa_cli.engine.pair.worker"
# Longest waits in seconds: until both have met and exchanged weights, and until a graph is opened or compiled.
MEETING, PREPARING = 180.0, 1800.0
# After so long without a call it is asked whether its device is done; to answer it has as long as three steps may take,
# since no more are under way at a time.
PATIENCE, STEPS = 15.0, {"cuda": 60.0, "cpu": 1800.0}
REASON = 5.0  # from an exchange that fails to the end of the process that caused it
LEAVE_OUT = "draw again, or leave out --gpus to draw on one"


class SecondProcess:
    """A process for a second device, and the link to it. One thread works with it at a time.

    When it fails or hangs, every wait for it ends, and `watched` raises why. It ends with this process.
    """

    def __init__(self) -> None:
        """Start the process, whose libraries load while this one's do."""
        self._second: torch.device | None = None
        self._link: Link | None = None
        self._problem: IpaError | None = None
        self._failed, self._closed = threading.Event(), threading.Event()
        # Until when it must have met or prepared, when it was last called while something waits, and the questions
        # whether it is done; on the monotonic clock.
        self._deadline: float | None = None
        self._called: float | None = None
        self._asked = self._answered = 0
        self._ready: set[int] = set()  # numbers of what it has prepared
        self._telling = threading.Lock()

        self._folder = tempfile.TemporaryDirectory(prefix="ipa-pair-")
        folder = Path(self._folder.name)
        with (folder / "log").open("w") as log:
            self._process = child.start(MODULE, folder, log)
        atexit.register(self.close)
        for target in (self._listen, self._watch):
            threading.Thread(target=target, daemon=True).start()

    def begin(self, device: torch.device, second: torch.device, job: Mapping[str, Any]) -> None:
        """Have it make the UNet that `job` describes on `second`, and meet this process, which uses `device`."""
        self._second, self._seconds = second, STEPS[device.type]
        meeting, seconds = Path(self._folder.name, "meeting"), max(MEETING, self._seconds)
        with suppress(OSError):  # it has ended, and `wait_until_met` says why
            self.tell({**job, "device": str(second), "meeting": str(meeting), "seconds": seconds})
        self._meeting = threading.Thread(target=self._meet, args=(meeting, device, seconds), daemon=True)
        self._meeting.start()

    def wait_until_met(self) -> None:
        while self._meeting.is_alive() and not self._failed.wait(0.02):
            pass
        self._check()

    def wait_until_ready(self, number: int) -> None:
        """Wait for the answer to {"prepare": number}."""
        while number not in self._ready and not self._failed.wait(0.005):
            pass

    def tell(self, job: Mapping[str, Any]) -> None:
        """One of the jobs in `worker`. Raises OSError where it has ended."""
        assert self._process.stdin is not None
        with self._telling:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()

    def send(self, job: Mapping[str, Any], inputs: Any, name: str = "inputs") -> None:
        """A job, and inputs of a UNet under `name`."""
        tensors: list[Tensor] = []
        self.tell({**job, name: described(inputs, tensors)})
        self.send_tensors(tensors)

    def send_tensors(self, tensors: Sequence[Tensor]) -> None:
        assert self._link is not None
        self._link.send(tensors)

    def receive(self, kinds: Sequence[Kind]) -> list[Tensor]:
        assert self._link is not None
        return self._link.receive(kinds)

    @contextmanager
    def watched(self, seconds: float | None = None) -> Iterator[None]:
        """Wait for the process in here, up to `seconds`, or without a limit as long as its device is at work.

        Raises IpaError with its failure, in place of what that causes here.
        """
        before, now = self._called, time.monotonic()
        if seconds is None:
            self._called = now
        else:
            self._deadline = now + seconds
        try:
            self._check()
            yield
            self._check()
        except (RuntimeError, OSError) as error:  # what torch raises, and a broken pipe
            if _is_out_of_memory(error) or not self._failed.wait(REASON):
                raise
            raise self._failure from error
        finally:
            self._deadline, self._called = None, None if before is None else time.monotonic()

    @contextmanager
    def exchange(self, seconds: float | None = None) -> Iterator[None]:
        """Something that both do together, `watched`; whatever stops it in the middle, the pair has failed."""
        with self.watched(seconds):
            try:
                yield
            except BaseException as error:
                other = isinstance(error, RuntimeError | OSError) and not _is_out_of_memory(error)
                if not self._failed.wait(REASON if other else 0):
                    why = (str(error).splitlines() or [""])[0] or type(error).__name__
                    self._fail(IpaError(f"the exchange with {self._name} was broken off: {why}", LEAVE_OUT))
                raise

    def close(self) -> None:
        """End the process."""
        atexit.unregister(self.close)
        self._closed.set()
        child.end(self._process, seconds=2)
        if self._link is not None:
            self._link.close()
        self._folder.cleanup()

    @property
    def _name(self) -> str:
        second = self._second
        return f"the process for {'the second half' if second is None or second.type == 'cpu' else second}"

    @property
    def _failure(self) -> IpaError:
        assert self._problem is not None
        return IpaError(self._problem.message, self._problem.hint)

    def _check(self) -> None:
        if self._problem is not None:
            raise self._failure

    # --- threads ---------------------------------------------------------------------------------------------------

    def _meet(self, meeting: Path, device: torch.device, seconds: float) -> None:
        try:
            self._link = Link(0, meeting, device, seconds)
        except Exception as error:
            self._fail(IpaError(f"the two processes did not meet: {error}".splitlines()[0], LEAVE_OUT))

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):
                message = json.loads(line)
                if "failed" in message:
                    self._fail(IpaError(f"{self._name}: {message['failed']}", message["hint"]))
                    return
                self._ready.add(message.get("ready", 0))
                self._answered = max(self._answered, message.get("done", 0))
        if not self._closed.is_set():
            log = Path(self._folder.name, "log").read_text(encoding="utf-8", errors="replace")
            why = child.Ended(self._process.wait(), err=public_text(log)).why
            self._fail(IpaError(f"{self._name} has ended: {why}", LEAVE_OUT))

    def _watch(self) -> None:
        asked, answered = None, 0.0  # when
        while not self._closed.wait(0.2) and not self._failed.is_set():
            now, deadline, called = time.monotonic(), self._deadline, self._called
            late = deadline is not None and now > deadline
            if asked is None:
                if called is not None and now - max(called, answered) > PATIENCE:
                    self._asked, asked = self._asked + 1, now
                    with suppress(OSError):
                        self.tell({"done": self._asked})
            elif self._answered == self._asked:
                asked, answered = None, now
            else:
                late = late or (called is not None and now - asked > self._seconds)
            if late:
                self._fail(IpaError(f"{self._name} does not answer", LEAVE_OUT))

    def _fail(self, problem: IpaError) -> None:
        """End the process and every wait for it; the first reason counts."""
        if self._failed.is_set() or self._closed.is_set():
            return
        self._problem = problem
        self._failed.set()
        child.end(self._process, seconds=1)
        if self._link is not None:
            self._link.close()


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, torch.cuda.OutOfMemoryError)
