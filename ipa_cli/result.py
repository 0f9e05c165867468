"""What a command returns, and the protocol for reporting progress: plain data, no printing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ipa_cli.errors import IpaError


@dataclass(frozen=True)
class Table:
    """Rows of text under column names, printed by `output`; `narrow` replaces it on a terminal that is too narrow."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    narrow: Table | None = None


@dataclass(frozen=True)
class Picture:
    """A picture on disk, which `output` shows if the terminal can."""

    path: Path


@dataclass(frozen=True)
class KeyValues:
    """Names and values, one pair per line."""

    rows: tuple[tuple[str, str], ...]


Block = str | Table | Picture | KeyValues


@dataclass(frozen=True)
class Result:
    """A finished command: `data` for `--json`, `blocks` (lines, tables, pictures, key-value pairs) for people.

    With `--quiet`, `paths` (the files or the folder it wrote) are printed instead of `blocks`. `failure` says why it
    ends with another status than 0, for `--json`: `blocks` say it too.
    """

    command: str
    data: dict[str, Any]
    blocks: tuple[Block, ...] = field(default=())
    failure: IpaError | None = None
    paths: tuple[Path, ...] = ()
    stdout: bytes | None = None  # a file to write to stdout; the blocks then go to stderr

    @property
    def exit_code(self) -> int:
        """The exit status of the command."""
        return self.failure.exit_code if self.failure else 0


Advance = Callable[[], None]


class Reporter(Protocol):
    """Where progress, notes and warnings go; `output.Terminal` is the real one."""

    def note(self, text: str) -> None: ...

    def detail(self, text: str) -> None:
        """A note that only `--verbose` shows."""

    def warn(self, text: str) -> None: ...

    def stage(self, name: str) -> AbstractContextManager[Callable[[str], None]]:
        """Work of unknown length; call the yielded function with what is being done."""

    def steps(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """A counted loop; call the yielded function after each step."""


class NullReporter:
    """A reporter that shows nothing."""

    def note(self, text: str) -> None:
        pass

    def detail(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        yield lambda doing: None

    @contextmanager
    def steps(self, name: str, total: int) -> Iterator[Advance]:
        yield lambda: None


class KeepingReporter(NullReporter):
    """A reporter that keeps notes and warnings."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
