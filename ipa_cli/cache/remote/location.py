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
SILENCE = 30.0  # and that a transfer may take for its next part,
SLOWEST = 8 << 10  # or longer at so many bytes a second for one that cannot be smaller
LISTING = 300.0  # seconds for all requests of a listing; the libraries' own limits are for one
REST = 60.0  # seconds for which a location that failed is not asked again by itself
CHUNK = 4 << 20  # read from a disk at once
PARTS = (64 << 10, 8 << 20)  # bytes fetched at once: from the first on, as many as come in about a second
PART_SENT = 1 << 20  # bytes sent at once, a multiple of 256 KiB for gs://; ...
S3_PART, S3_PARTS = 5 << 20, 10_000  # ... S3 takes no smaller ones, and not more of them

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
        self._part = PARTS[0]
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
            found = self._within(LISTING, system.find, below)
        except FileNotFoundError:
            found = []
        if not found and self.scheme not in ("file", "memory"):  # a bucket that is missing looks like an empty one
            self._call(ANSWER, system.ls, root.partition("/")[0])
        prefix = below.lstrip("/") + "/"
        return sorted(path.lstrip("/").removeprefix(prefix) for path in found)

    def read(self, path: str, most: int) -> bytes | None:
        """The content of a file, None where there is none. Raises RemoteError, also for more than `most` bytes."""
        try:
            with self._opened_file(path) as file:
                content = b""
                while part := self._within(SILENCE, self._next, file, most + 1 - len(content)):
                    content += part
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
        try:
            return self._fetch(path, size, have, write)
        except ValueError:  # fsspec's HTTP, where the server knows of no ranges
            if not have:
                raise
        restart()
        return self._fetch(path, size, 0, write)

    def _fetch(self, path: str, size: int, have: int, write: Callable[[bytes], Any]) -> int:
        came = 0
        with self._opened_file(path, have) as file:
            there = getattr(file, "size", None)
            if there is not None and there != size:
                raise EOFError(f"{there} bytes")
            while have + came < size:
                part = self._within(SILENCE, self._next, file, size - have - came)
                if not part:
                    raise EOFError(f"{have + came} bytes")
                write(part)
                came += len(part)
        return came

    def _opened_file(self, path: str, have: int = 0) -> Any:
        """A file to be read from byte `have` on; a web server sends it in one answer, unless it is not the first."""
        system, root = self._system()
        how = {"block_size": 0} if not self.writable and not have else {"cache_type": "none"}
        file: Any = self._within(ANSWER, system.open, f"{root}/{path}", "rb", **how)
        if have:
            self._within(ANSWER, file.seek, have)
        return file

    def size(self, path: str) -> int | None:
        """The size of a file in bytes, None where there is none. Raises RemoteError."""
        system, root = self._system()
        try:
            return self._within(ANSWER, system.info, f"{root}/{path}")["size"]
        except FileNotFoundError:
            return None

    def _next(self, file: Any, left: int) -> bytes:
        """The next bytes of a file, in one request; the next request is for fewer or more, by the time of this one."""
        began = time.monotonic()
        part = file.read(min(self._part, left))
        took = time.monotonic() - began
        if took > 4:
            self._part = max(self._part // 2, PARTS[0])
        elif took < 1 and len(part) == self._part:
            self._part = min(self._part * 2, PARTS[1])
        return part

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
        at_once = PART_SENT
        if self.scheme == "s3":
            at_once = max(S3_PART, -(-source.stat().st_size // S3_PARTS))
        target = self._call(ANSWER, system.open, f"{root}/{path}", "wb", block_size=at_once)
        try:
            with source.open("rb") as file:
                while part := file.read(at_once):
                    self._call(_patience(len(part)), target.write, part)
                    advance(len(part))
            self._call(_patience(at_once), target.close)
        except BaseException:
            with suppress(RemoteError):
                self._call(ANSWER, remote.discard, target)
            raise

    def write(self, path: str, content: bytes) -> None:
        """Write a small file, whole or not at all. Raises RemoteError."""
        system, root = self._system()
        if self.scheme == "file":
            with _written():
                files.replace(Path(root, path), content)
            return
        self._call(_patience(len(content)), system.pipe_file, f"{root}/{path}", content)

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

    def _within(self, seconds: float, function: Callable[..., _Answer], *arguments: Any, **named: Any) -> _Answer:
        """What `function` returns, unless it takes longer than `seconds`.

        It runs in a thread of its own, which is left behind then: no library's own limits cover a folder on a disk
        that hangs, a name server that is silent and an upload alike. Raises RemoteError, and FileNotFoundError.
        """
        done = in_thread(function, *arguments, **named)
        try:
            with suppress(TooLong):
                return done.result(seconds)
            if done.done():
                return done.result()
            raise RemoteError(f"{self.url} does not answer within {seconds:g} s", "try again later")
        except FileNotFoundError as error:
            cause = error.__cause__  # fsspec's HTTP says of every failure that the file is not there
            if cause is None or isinstance(cause, FileNotFoundError):
                raise
            raise self._failure(cause) from error
        except (IpaError, ImportError):
            raise
        except Exception as error:
            for one in (error, error.__cause__ or error):  # adlfs raises a RuntimeError from what Azure's library says
                if isinstance(one, OSError) or type(one).__module__.partition(".")[0] in _LIBRARIES:
                    raise self._failure(one) from error
            raise

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


def in_thread(function: Callable[..., _Answer], *arguments: Any, **named: Any) -> Future[_Answer]:
    """Call `function` in a thread of its own, which no exit of the process waits for."""
    done: Future[_Answer] = Future()

    def work() -> None:
        try:
            done.set_result(function(*arguments, **named))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return done


@cache
def at(url: str) -> Remote:
    """The location of a URL, the same one for all who ask in this process."""
    return Remote(url)


def _patience(count: int) -> float:
    """The seconds that a request may take which sends so many bytes."""
    return SILENCE + count // SLOWEST
