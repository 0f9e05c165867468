"""How far a batch is: pictures a second and the time left, on a terminal all the time, elsewhere now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ipa_cli.batch.journal import Outcome
from ipa_cli.config.units import rate
from ipa_cli.result import Reporter

EVERY = 10.0  # seconds between two lines, at first; ...
LATER = 60.0  # ... and in the end
WARNED = 20  # failures that are warned of as they happen


class Progress:
    """Counts outcomes, from any thread; `doing` is shown while the batch runs."""

    def __init__(self, total: int, reporter: Reporter, doing: Callable[[str], None], live: bool):
        self._total, self._reporter, self._doing, self._live = total, reporter, doing, live
        self._lock = threading.Lock()
        self._began = time.perf_counter()
        self._next = self._began + EVERY
        self.done = self.failed = 0
        self.first = self.last = 0.0  # seconds from the beginning to the first picture and to the last outcome

    def count(self, outcome: Outcome) -> None:
        """One job has ended."""
        with self._lock:
            now = time.perf_counter()
            self.done += 1
            self.failed += outcome.status == "failed"
            self.last = now - self._began
            self._reporter.detail(f"{outcome.id} {outcome.status}")
            if outcome.status != "failed":
                self.first = self.first or self.last
            if outcome.error is not None and self.failed <= WARNED:
                more = "; further failures are in results.jsonl" if self.failed == WARNED else ""
                hint = f" ({outcome.hint})" if outcome.hint else ""
                self._reporter.warn(f"{outcome.id} failed: {outcome.error}{hint}{more}")
            if self._live:
                self._doing(self.text)
            elif now >= self._next:
                self._next = now + min(LATER, max(EVERY, 0.05 * self.last))
                self._reporter.note(self.text)

    @property
    def per_second(self) -> float | None:
        """Pictures a second since the first, so that loading does not count; None before the second."""
        pictures, seconds = self.done - self.failed, self.last - self.first
        return (pictures - 1) / seconds if pictures > 1 and seconds > 0 else None

    @property
    def text(self) -> str:
        speed = self.per_second
        left = f"{duration((self._total - self.done) / speed)} left" if speed else ""
        failed = f"{self.failed} failed" if self.failed else ""
        parts = (f"{self.done} of {self._total}", rate(speed, "picture", "pictures"), left, failed)
        return ", ".join(filter(None, parts))


def duration(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
