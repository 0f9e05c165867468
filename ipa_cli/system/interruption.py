"""Ctrl-C, SIGTERM and SIGHUP as one exception, so that `finally` and context managers run whichever came."""

from __future__ import annotations

import signal
import time
from types import FrameType

GRACE = 10.0  # seconds


class Interruption:
    """Raises KeyboardInterrupt for a signal that ends the process; `number` is the one that came.

    What comes within `GRACE` of it, such as an impatient second Ctrl-C, does not disturb the cleaning up.
    """

    def __init__(self) -> None:
        self.number: int = signal.SIGINT
        self._deaf_until = 0.0

    @property
    def exit_code(self) -> int:
        return 128 + self.number

    def listen(self) -> None:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._arrived)

    def hold_off(self) -> None:
        """From here on there is only the answer to print: too late to interrupt."""
        self._deaf_until = time.monotonic() + GRACE

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() < self._deaf_until:
            return
        self.hold_off()
        self.number = number
        raise KeyboardInterrupt
