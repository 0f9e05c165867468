"""Locks: one process builds or removes a graph, many read it. A lock ends with its process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ipa_cli.cache.entries import Store
from ipa_cli.cache.manifest import MANIFEST

LOCKS = ".locks"


class InUse(Exception):
    """Another process uses, builds or removes this graph; never leaves this package."""


@contextmanager
def key_lock(store: Store, id: str, wait: bool = True, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the right to build, publish or remove the graph `id`; calls `waiting` once when another process has it.

    Raises InUse when it is taken and `wait` is false. The store's folders must be there, see `prepare`.
    """
    from filelock import FileLock, Timeout  # slow to import, and most commands lock nothing

    lock = FileLock(store.graphs / LOCKS / f"{id}.lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise InUse(id) from None
        if waiting is not None:
            waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Keep the graph in `folder` from being removed; many processes can.

    The lock is on the manifest, opened for reading, so that it works in a read-only cache too. Raises InUse while the
    graph is being removed, FileNotFoundError when it is gone.
    """
    with _flocked(folder / MANIFEST, os.O_RDONLY, fcntl.LOCK_SH):
        yield


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock the graph in `folder` against every other process.

    Raises InUse when one has it open, FileNotFoundError when it is gone.
    """
    with _flocked(folder / MANIFEST, os.O_RDWR, fcntl.LOCK_EX):
        yield


@contextmanager
def hold_lock_file(path: Path) -> Iterator[None]:
    """Create the lock file `path` and hold it, which `is_lock_file_held` sees. Raises FileExistsError."""
    with _flocked(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, fcntl.LOCK_EX):
        yield


def is_lock_file_held(path: Path) -> bool:
    """Whether a living process holds the lock file `path`, or might; needs no right to write."""
    try:
        with _flocked(path, os.O_RDONLY, fcntl.LOCK_SH):
            return False
    except (InUse, PermissionError):
        return True
    except FileNotFoundError:
        return False


@contextmanager
def _flocked(path: Path, access: int, kind: int) -> Iterator[None]:
    descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(str(path)) from None
        yield
    finally:
        os.close(descriptor)
