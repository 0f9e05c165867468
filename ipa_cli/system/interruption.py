"""Ctrl-C, SIGTERM and SIGHUP raise the same exception, so that `finally` and context managers run for each."""

from __future__ import annotations

import signal
import time
from types import FrameType

GRACE = 10.0  # seconds
PAUSE = 0.02  # seconds between two looks at whether an import has ended


class Interruption:
    """Raises KeyboardInterrupt for a signal that ends the process; `number` is the signal.

    Further signals within `GRACE`, such as an impatient second Ctrl-C, are ignored so that cleaning up can finish.
    While a module is being imported, the exception waits for the end of it, `GRACE` at most: in the middle of its
    import, torch answers an exception by aborting the process, and diffusers by a RecursionError.
    """

    def __init__(self) -> None:
        self.number: int = signal.SIGINT
        self._ignoring_until = 0.0
        self._deferring = self._arrived = False

    @property
    def exit_code(self) -> int:
        return 128 + self.number

    def listen(self, deferred: bool = False) -> None:
        """Handle the signals from now on; `deferred`: raise nothing before `stop_deferring`."""
        self._deferring = deferred
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._handle)

    def stop_deferring(self) -> None:
        """Raise KeyboardInterrupt if a signal has arrived since `listen`, from now on at once."""
        self._deferring = False
        if self._arrived:
            raise KeyboardInterrupt

    def hold_off(self) -> None:
        """Ignore signals for `GRACE` seconds: only the answer is left to print."""
        self._ignoring_until = time.monotonic() + GRACE

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() < self._ignoring_until:
            return
        self.hold_off()
        self.number, self._arrived = number, True
        if not self._deferring:
            self._raise(frame)

    def _raise(self, frame: FrameType | None) -> None:
        if _importing(frame) and time.monotonic() < self._ignoring_until and hasattr(signal, "setitimer"):  # Unix
            signal.signal(signal.SIGALRM, lambda _, later: self._raise(later))
            signal.setitimer(signal.ITIMER_REAL, PAUSE)
            return
        raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    """Whether `frame` runs because of an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
