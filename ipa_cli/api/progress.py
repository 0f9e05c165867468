"""What a program or notebook sees of the work: tqdm's bars, Python's warnings, and notes in the log `ipa_cli`."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from ipa_cli.result import Advance

LOG = logging.getLogger("ipa_cli")


class Progress:
    """A reporter whose bars are widgets in a notebook that has ipywidgets, and lines elsewhere; none unless `shown`."""

    def __init__(self, shown: bool = True):
        self.shown = shown

    def note(self, text: str) -> None:
        LOG.info(text)

    def detail(self, text: str) -> None:
        LOG.debug(text)

    def warn(self, text: str) -> None:
        warnings.warn(text, stacklevel=2)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        with self._bar(desc=name, bar_format="{desc}: {elapsed}") as bar:
            yield lambda doing: bar.set_description_str(f"{name}, {doing}")

    @contextmanager
    def steps(self, name: str, total: int) -> Iterator[Advance]:
        with self._bar(desc=name or "drawing", total=total) as bar:
            yield bar.update

    def _bar(self, **options: Any) -> Any:
        if "IPython" in sys.modules and find_spec("ipywidgets") is not None:
            from tqdm.auto import tqdm
        else:  # tqdm.auto would warn that there are no widgets
            from tqdm import tqdm
        return tqdm(**options, disable=not self.shown, leave=False, mininterval=0)
