"""What a batch says of its jobs while it runs: warnings and some notes once, the rest for `--verbose`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ipa_cli.config import FIELDS, Settings
from ipa_cli.pipeline import hires, init_image, unused
from ipa_cli.pipeline.task import Request
from ipa_cli.result import KeepingReporter, NullReporter, Reporter


class Quiet(NullReporter):
    """The reporter of an engine that draws jobs: warnings once, the rest for `--verbose`, no bars."""

    MOST = 1000

    def __init__(self, log: Reporter):
        self._log = log
        self._said: set[str] = set()

    def note(self, text: str) -> None:
        self._log.detail(text)

    def detail(self, text: str) -> None:
        self._log.detail(text)

    def note_once(self, text: str) -> None:
        """A note that is shown, like a warning, but once for all jobs."""
        if text not in self._said:
            self._said.add(text)
            self._log.note(text)

    def warn(self, text: str, before: str = "") -> None:
        if text not in self._said and len(self._said) < self.MOST:
            self._said.add(text)
            self._log.warn(f"{before}{text}")


def without_effect(settings: Settings, request: Request, own: Collection[str]) -> list[str]:
    """Notes on what of these settings, by their names, changes nothing in the picture of a request."""
    asked, found = replace(settings, inherited=frozenset(FIELDS).difference(own)), KeepingReporter()
    init_image.remark(asked, found)
    hires.remark(asked, found)
    unused.remark(asked, request, found)
    return found.notes
