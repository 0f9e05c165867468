"""What a command hands back, and how the work below it speaks while it runs: plain data, no printing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Table:
    """Rows of text under column names, drawn by `output`; `narrow` takes its place where a terminal has no room."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    narrow: Table | None = None


@dataclass(frozen=True)
class Picture:
    """A picture on disk, shown by `output` where the terminal can."""

    path: Path


@dataclass(frozen=True)
class Facts:
    """Names, and below each other what is to be said of each."""

    rows: tuple[tuple[str, str], ...]


Block = str | Table | Picture | Facts


@dataclass(frozen=True)
class Result:
    """A finished command: `data` for `--json`, `blocks` (lines, tables, pictures, facts) for people.

    With `--quiet`, `paths`, the files or the folder it made, take the place of `blocks`.
    """

    command: str
    data: dict[str, Any]
    blocks: tuple[Block, ...] = field(default=())
    exit_code: int = 0
    paths: tuple[Path, ...] = ()
    stdout: bytes | None = None  # a file for stdout; what is for people then goes to stderr


Advance = Callable[[], None]


class Reporter(Protocol):
    """Where progress, notes and warnings go; `output.Terminal` is the real one."""

    def note(self, text: str) -> None: ...

    def detail(self, text: str) -> None:
        """A note for who wants to know more."""

    def warn(self, text: str) -> None: ...

    def stage(self, name: str) -> AbstractContextManager[Callable[[str], None]]:
        """A piece of work of unknown length; call the yielded function with what is being done now."""

    def steps(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """A counted loop; call the yielded function after each step."""


class Silent:
    """A reporter that keeps still."""

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
