"""Read files and pipes of unknown origin, with limits on size and time; never a device."""

from __future__ import annotations

import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as _FutureTimeoutError
from itertools import count
from pathlib import Path
from typing import IO, TypeVar

from ipa_cli.errors import IpaError, UsageError

STDIN = "-"
FIFO_SECONDS = 30.0  # until the writer of a named pipe has closed it
PIPE_SECONDS = 300.0  # the same for stdin and `<(…)`, where a whole program may be at work
HANDED = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")  # pipes that the shell has opened for us

# An address, in which `Path` makes one slash of two, without user and query.
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+([^/@]*@)?(?P<place>[^?#]*)")

_T = TypeVar("_T")


class MissingFile(IpaError):
    """The file does not exist."""


def read(name: str, limit: int, what: str) -> bytes:
    """As `read_bytes`, for a name as it is typed: `-` is stdin, `~` the home folder."""
    if name == STDIN:
        return read_stdin(limit, what)
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise MissingFile(f"{name}: {error}", "write the folder in full") from error
    return read_bytes(path, limit, what)


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """The content of the file, or of the pipe, that `path` leads to; `what` says what it should be: "a picture".

    Raises MissingFile when there is none, IpaError when it is a folder, a device or a socket, cannot be read, is longer
    than `limit` bytes, or when a pipe is not closed in time.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISFIFO(kind):
            seconds = PIPE_SECONDS if str(path).startswith(HANDED) else FIFO_SECONDS
            data = _read_pipe(str(path), lambda: path.open("rb"), limit, seconds)
        elif stat.S_ISREG(kind):
            data = _read_regular(path, limit)
        else:
            named = "a folder" if stat.S_ISDIR(kind) else "a socket" if stat.S_ISSOCK(kind) else "a device"
            raise IpaError(f"{path} is {named}, not {what}", "name a file")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing(path) from error
    except OSError as error:
        raise IpaError(
            f"{path} cannot be read: {error.strerror or error}", "check the path and its permissions"
        ) from error
    except ValueError as error:  # a NUL byte in the name, or what no file system can spell
        raise MissingFile(f"{str(path)!r} is not a file name", "check the path") from error
    return _checked(data, limit, str(path))


def leads_nowhere(path: Path) -> bool:
    """Whether `path` is a link to what is not there, or a loop of links."""
    try:
        return path.is_symlink() and not path.exists()
    except (OSError, ValueError):  # nobody may look, or it is no name of a file
        return False


def missing(path: Path) -> MissingFile:
    """What to say of a file that is not there: it may be a link that leads nowhere, or an address."""
    if path.is_symlink():
        return MissingFile(f"{path} is a link that leads nowhere", "fetch what it leads to")
    if address := _ADDRESS.match(str(path)):
        shown = f"{address['scheme']}://{address['place']}"
        return MissingFile(f"{shown} is an address, and a file is read here", "download it, and name the file")
    return MissingFile(f"{path} does not exist", "check the path")


def read_stdin(limit: int, what: str) -> bytes:
    """All of stdin; raises as `read_bytes`, and UsageError when it is a terminal or closed."""
    if sys.__stdin__ is None or sys.__stdin__.closed or os.isatty(0):
        raise UsageError(f"stdin is a terminal or closed: {what} should be piped in", "ipa … - < FILE")
    try:
        data = _read_pipe("stdin", lambda: os.fdopen(os.dup(0), "rb"), limit, PIPE_SECONDS)
    except OSError as error:
        raise IpaError(f"stdin cannot be read: {error.strerror or error}", "ipa … - < FILE") from error
    return _checked(data, limit, "stdin")


def check_stdin(names: Iterable[str | None]) -> None:
    """Raise UsageError when more than one name is stdin."""
    if list(names).count(STDIN) > 1:
        raise UsageError("stdin can be read only once", "use a file name for the others")


def within(seconds: float, work: Callable[[], _T]) -> _T:
    """The result of `work`, run in a daemon thread. Raises TimeoutError when it takes longer than `seconds`."""
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        raise
    except _FutureTimeoutError as error:  # the same since Python 3.11
        raise TimeoutError from error


def _read_regular(path: Path, limit: int) -> bytes:
    # Non-blocking: a pipe may have taken its place, and some files in /proc block until something happens.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it was replaced while it was opened")
        return file.read(limit + 1) or b""


def _read_pipe(name: str, opened: Callable[[], IO[bytes]], limit: int, seconds: float) -> bytes:
    def read() -> bytes:
        with opened() as file:
            return file.read(limit + 1)

    try:
        return within(seconds, read)
    except TimeoutError as error:
        raise IpaError(f"{name} was not closed by its writer within {seconds:g} s", "name a file") from error


def _checked(data: bytes, limit: int, name: str) -> bytes:
    if len(data) > limit:
        raise IpaError(f"{name} is larger than {limit / 1e6:g} MB", "name a smaller file")
    return data


def blocks(path: Path, what: str, size: int = 1 << 20) -> Iterator[bytes]:
    """The content of a regular file, a part at a time. Raises as `read_bytes`, and for a pipe, which is read once."""
    with _opened(path, what) as file:
        while block := file.read(size):
            yield block


def lines(path: Path, longest: int, what: str) -> Iterator[bytes]:
    """The lines of a regular file, with their ends. Raises as `blocks`, and for one of more than `longest` bytes."""
    with _opened(path, what) as file:
        for number in count(1):
            line = file.readline(longest + 1)
            if len(line) > longest:
                raise IpaError(f"{path}, line {number} is longer than {longest / 1e6:g} MB", "shorten it")
            if not line:
                return
            yield line


def _opened(path: Path, what: str) -> IO[bytes]:
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except FileNotFoundError as error:
        raise missing(path) from error
    except (OSError, ValueError) as error:
        raise IpaError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}", "check the path"
        ) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise IpaError(f"{path} is no regular file, and {what} is read more than once", "name a file")
    return file
