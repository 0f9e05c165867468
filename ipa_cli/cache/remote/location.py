"""Where a remote cache is: reading, writing and listing through fsspec, each with a time limit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLong  # another class than the builtin before Python 3.11
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ipa_cli.cache.entries import StoreError
from ipa_cli.errors import IpaError
from ipa_cli.system import files, remote

ANSWER = 10.0  # seconds that a request may take,
SILENCE = 30.0  # and that a transfer may take for its next part
REST = 60.0  # seconds for which a location that failed is not asked again by itself
CHUNK = 4 << 20

_LIBRARIES = {"fsspec", "s3fs", "gcsfs", "adlfs", "aiohttp", "botocore", "aiobotocore", "google", "azure", "urllib3"}
_Answer = TypeVar("_Answer")


class RemoteError(StoreError):
    """A remote cache cannot be reached or refuses; drawing may go on without it."""


class Remote:
    """The location that a URL names. `rests` while it has just failed to answer."""

    def __init__(self, url: str):
        self.url = url.rstrip("/") or url
        self.scheme = remote.scheme(url)
        self.writable = self.scheme not in remote.READ_ONLY
        self._failed = float("-inf")
        self._opened: tuple[Any, str] | None = None

    @property
    def rests(self) -> bool:
        return time.monotonic() - self._failed < REST

    def rest(self) -> None:
        """Say that it failed."""
        self._failed = time.monotonic()

    def list(self, folder: str) -> list[str] | None:
        """The paths of all files below `folder`, relative to it; None where it cannot list. Raises RemoteError."""
        if not self.writable:
            return None
        system, root = self._system()
        below = f"{root}/{folder}"
        try:
            if self.scheme == "file":  # fsspec passes over what is no folder, or may not be read
                self._within(ANSWER, os.listdir, below)
            found = self._within(SILENCE, system.find, below)
        except FileNotFoundError:
            found = []
        if not found and self.scheme not in ("file", "memory"):  # a bucket that is missing looks like an empty one
            self._call(ANSWER, system.ls, root.partition("/")[0])
        prefix = below.lstrip("/") + "/"
        return sorted(path.lstrip("/").removeprefix(prefix) for path in found)

    def read(self, path: str, most: int) -> bytes | None:
        """The content of a file, None where there is none. Raises RemoteError, also for more than `most` bytes."""
        system, root = self._system()
        try:
            with self._within(ANSWER, system.open, f"{root}/{path}", "rb", block_size=CHUNK) as file:
                content = self._within(SILENCE, file.read, most + 1)
        except FileNotFoundError:
            return None
        if len(content) > most:
            raise RemoteError(f"{self.url}/{path} has more than {most} bytes", "it is not what ipa wrote")
        return content

    def fetch(self, path: str, size: int, have: int, write: Callable[[bytes], Any], restart: Callable[[], Any]) -> int:
        """Hand a file of `size` bytes to `write`, from byte `have` on; how many bytes came.

        A server that sends files only as a whole has `restart` called first. Raises FileNotFoundError where it is not
        there, EOFError where it has another size, RemoteError where it does not come.
        """
        system, root = self._system()
        came = 0
        with self._within(
            ANSWER, system.open, f"{root}/{path}", "rb", block_size=CHUNK, cache_type="readahead"
        ) as file:
            there = getattr(file, "size", None)
            if there is not None and there != size:
                raise EOFError(f"{there} bytes")
            if have:
                try:
                    self._within(ANSWER, file.seek, have)
                except ValueError:  # fsspec's stream over HTTP
                    restart()
                    have = 0
            while have + came < size:
                part = self._within(SILENCE, file.read, min(CHUNK, size - have - came))
                if not part:
                    raise EOFError(f"{have + came} bytes")
                write(part)
                came += len(part)
        return came

    def size(self, path: str) -> int | None:
        """The size of a file in bytes, None where there is none. Raises RemoteError."""
        system, root = self._system()
        try:
            return self._within(ANSWER, system.info, f"{root}/{path}")["size"]
        except FileNotFoundError:
            return None

    def send(self, path: str, source: Path, advance: Callable[[int], None]) -> None:
        """Write the file `source` as `path`, whole or not at all; `advance` is called with the bytes sent since."""
        system, root = self._system()
        if self.scheme == "file":
            with _written(), files.replacing(Path(root, path)) as target, source.open("rb") as file:
                while part := file.read(CHUNK):
                    target.write(part)
                    advance(len(part))
            return
        self._call(ANSWER, system.makedirs, f"{root}/{path.rpartition('/')[0]}", exist_ok=True)
        callback = _callback(advance)
        self._call(SILENCE, system.put_file, str(source), f"{root}/{path}", callback=callback, alive=callback)

    def write(self, path: str, content: bytes) -> None:
        """Write a small file, whole or not at all. Raises RemoteError."""
        system, root = self._system()
        if self.scheme == "file":
            with _written():
                files.replace(Path(root, path), content)
            return
        self._call(SILENCE, system.pipe_file, f"{root}/{path}", content)

    def _system(self) -> tuple[Any, str]:
        if self._opened is None:
            plain = self.url if "://" in self.url else str(Path(self.url).expanduser().absolute())
            try:
                self._opened = self._call(ANSWER, remote.opened, plain)
            except RemoteError:
                raise
            except IpaError as error:
                raise RemoteError(f"{self.url} {error.message}", error.hint) from error
        return self._opened

    def _call(self, seconds: float, function: Callable[..., _Answer], *arguments: Any, **named: Any) -> _Answer:
        try:
            return self._within(seconds, function, *arguments, **named)
        except FileNotFoundError as error:
            raise self._failure(error) from error

    def _within(
        self, seconds: float, function: Callable[..., _Answer], *arguments: Any, alive: Any = None, **named: Any
    ) -> _Answer:
        """What `function` returns, unless it takes longer than `seconds`, or shows no progress for so long.

        It runs in a thread of its own, which is left behind then: no library's own limits cover a folder on a disk
        that hangs, a name server that is silent and an upload alike. Raises RemoteError, and FileNotFoundError.
        """
        done: Future[_Answer] = Future()

        def work() -> None:
            try:
                done.set_result(function(*arguments, **named))
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        began = time.monotonic()
        try:
            while True:
                with suppress(TooLong):
                    return done.result(min(1.0, seconds))
                if done.done():
                    return done.result()
                if time.monotonic() - max(began, getattr(alive, "moved", began)) > seconds:
                    raise RemoteError(f"{self.url} does not answer within {seconds:g} s", "try again later")
        except FileNotFoundError as error:
            cause = error.__cause__  # fsspec's HTTP says of every failure that the file is not there
            if cause is None or isinstance(cause, FileNotFoundError):
                raise
            raise self._failure(cause) from error
        except (IpaError, ImportError):
            raise
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _LIBRARIES:
                raise
            raise self._failure(error) from error

    def _failure(self, error: BaseException) -> RemoteError:
        if isinstance(error, NotADirectoryError):
            return RemoteError(f"{self.url} is not a folder", "name a folder")
        found = remote.failure(error)
        what, hint = {
            "missing": (f"is not there: {found.said}", found.hint),
            "denied": (f"refuses: {found.said}", found.hint),
            "silent": ("does not answer", "try again later"),
            "other": (f"cannot be reached: {found.said}", "check the address and the network"),
        }[found.kind]
        return RemoteError(f"{self.url} {what}", hint)


@contextmanager
def _written() -> Iterator[None]:
    """Turn what `files` raises into a RemoteError."""
    try:
        yield
    except IpaError as error:
        raise RemoteError(error.message, "name another folder, or free some space") from error


@cache
def at(url: str) -> Remote:
    """The location of a URL, the same one for all who ask in this process."""
    return Remote(url)


def _callback(advance: Callable[[int], None]) -> Any:
    """fsspec's callback for a transfer; `moved` is when it last went on."""
    from fsspec.callbacks import Callback

    class Progress(Callback):
        moved = time.monotonic()

        def relative_update(self, inc: int = 1) -> None:
            self.moved = time.monotonic()
            advance(inc)

    return Progress()
