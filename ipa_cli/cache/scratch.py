"""Scratch folders on the store's disk, one process each, and removing those of processes that have ended.

<root>/graphs-v1/.work/<pid>-<8 hex>        a graph being built, opened or removed, or an archive being unpacked
<root>/graphs-v1/.work/<pid>-<8 hex>.lock   held by the process that uses it; if nobody holds it, the folder is garbage
<root>/graphs-v1/.partial/<name>            a graph that was pulled in part: kept for a day, so that a pull can go on
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ipa_cli.cache.entries import BUCKET, Refused, Store, StoreError, disk_size
from ipa_cli.cache.locks import LOCKS, InUse, hold_lock_file, is_lock_file_held, key_lock
from ipa_cli.cache.trust import check_owner
from ipa_cli.errors import IpaError

WORK = ".work"
PARTIAL = ".partial"
_TAG = "CACHEDIR.TAG"
_TAG_TEXT = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# Graphs compiled by ipa; all of it can be removed and is then built again.\n"
)
_OF_EARLIER_VERSIONS = (".building-", ".trash-")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_ROOM = 1 << 20
_RESUMABLE = 24 * 3600  # seconds


@dataclass(frozen=True)
class ScratchFolder:
    """A scratch folder: `size` in bytes, `alive` while a process uses it, or may go on with it."""

    path: Path
    size: int
    alive: bool


@contextmanager
def scratch_folder(store: Store) -> Iterator[Path]:
    """A folder for this process alone on the store's disk, mode 0700; removed afterwards, or by the next sweep.

    Sweeps first. Raises StoreError where the store cannot be written, or others can write.
    """
    sweep(store)
    folder = _new(store)
    with ExitStack() as lasting:
        with key_lock(store, WORK):  # nobody sweeps it before it is locked
            lasting.enter_context(hold_lock_file(_lock(folder)))
            folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            remove(folder)
            _lock(folder).unlink(missing_ok=True)


def scratch_folders(store: Store) -> list[ScratchFolder]:
    """Every scratch folder that this user may see, of running and ended processes."""
    try:
        _check_own(store)
        paths = [path for path in (store.graphs / WORK).iterdir() if path.suffix != ".lock"]
        paths += [path for path in store.graphs.iterdir() if path.name.startswith(_OF_EARLIER_VERSIONS)]
    except (FileNotFoundError, NotADirectoryError, PermissionError, Refused):
        return []
    found = [ScratchFolder(path, disk_size(str(path)), is_lock_file_held(_lock(path))) for path in paths]
    return [*found, *_partial_folders(store)]


def _partial_folders(store: Store) -> Iterator[ScratchFolder]:
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for path in (store.graphs / PARTIAL).iterdir():
            with suppress(FileNotFoundError):  # it became a graph meanwhile
                young = time.time() - path.lstat().st_mtime < _RESUMABLE
                yield ScratchFolder(path, disk_size(str(path)), young)


def partial_folder(store: Store, name: str) -> Path:
    """A folder for what a pull has received so far, the same for the same `name`; `remove` it in the end.

    Hold the lock of the graph's key, and have the store prepared.
    """
    folder = store.graphs / PARTIAL / name
    with key_lock(store, WORK):  # nobody sweeps it before it is new
        if folder.is_symlink():
            folder.unlink()
        make_folders(store.graphs, Path(PARTIAL) / name)
        os.utime(folder)
    return folder


def sweep(store: Store) -> int:
    """Remove what ended processes left half built or half removed; returns its bytes. Raises StoreError."""
    with translate_disk_errors(store):
        prepare(store)
        with key_lock(store, WORK):
            dead = [found for found in scratch_folders(store) if not found.alive]
            for found in dead:
                remove(found.path)
            for lock in (store.graphs / WORK).glob("*.lock"):
                if not is_lock_file_held(lock):
                    lock.unlink(missing_ok=True)
    return sum(found.size for found in dead)


def trash(store: Store, folder: Path) -> None:
    """Move `folder` out of the store, then delete it: its place is empty even if this process is killed meanwhile."""
    away = _new(store)
    try:
        folder.rename(away)
    except FileNotFoundError:
        return
    remove(away)


def remove(path: Path) -> None:
    """Delete a folder, or the link or file in its place; what another process deletes meanwhile is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def prepare(store: Store) -> None:
    """Make the store's own folders, mode 0700, and the tag by which backup programs recognize a cache.

    Raises OSError where they cannot be made, Refused where others may write, or where one of them is a link.
    """
    _check_own(store)
    make_folders(store.root, Path(BUCKET, LOCKS))
    make_folders(store.root, Path(BUCKET, WORK))
    tag = store.graphs / _TAG
    with suppress(FileExistsError), tag.open("x") as file:
        file.write(_TAG_TEXT)
    check_owner(store, store.graphs / WORK)  # what is checked is copied there before it is loaded


def _check_own(store: Store) -> None:
    """Raise Refused when a folder whose content gets removed is a link: it may lead to the user's files."""
    for folder in (store.graphs, store.graphs / LOCKS, store.graphs / WORK, store.graphs / PARTIAL):
        if folder.is_symlink():
            raise Refused(f"the graph cache is not used: {folder} is a link", "name another folder with --cache-dir")


def make_folders(base: Path, inner: Path) -> None:
    """Make `base` and the folders of `inner` below it, mode 0700; also those above it, where others must not write."""
    above = [path for path in base.parents if not path.exists()]
    below = [base / part for part in (inner, *inner.parents) if part != Path()]
    for path in (*reversed(above), base, *reversed(below)):
        path.mkdir(mode=0o700, exist_ok=True)


def check_free_space(folder: Path, size: int, what: str) -> None:
    """Raise StoreError unless the disk of `folder` has `size` bytes free for `what`."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise StoreError(
            f"{what} takes up to {size / 1e6:.0f} MB, and the disk of {folder} has {free / 1e6:.0f} MB free",
            "free some space, or name a folder on another disk with --cache-dir or TMPDIR",
        )


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed because there is no room."""
    return error.errno in _FULL


@contextmanager
def translate_disk_errors(store: Store) -> Iterator[None]:
    """Turn a full or read-only disk into a StoreError; every other failure passes."""
    try:
        yield
    except Exception as error:
        problem = _disk_problem(store, error)
        if problem is None:
            raise
        raise StoreError(*problem) from error


def _disk_problem(store: Store, error: Exception) -> tuple[str, str] | None:
    number, words = None, str(error)
    if isinstance(error, OSError):
        number, words = error.errno, f"{error.strerror}: {error.filename}" if error.filename else f"{error.strerror}"
        if number in _CLOSED and error.filename and _around(store.root, Path(error.filename)):
            return f"the graph cache cannot be written: {words}", "name a folder you can write to with --cache-dir"
    # Libraries report a failed write in their own ways, so the free space is looked at too.
    if number in _FULL or (not isinstance(error, IpaError | InUse) and _free(store) < _NO_ROOM):
        return (
            f"the graph cache {store.root} cannot hold more: {words}",
            "`ipa cache clear --older-than 30d` makes room, or name another folder with --cache-dir",
        )
    return None


def _around(root: Path, path: Path) -> bool:
    return path.is_relative_to(root) or root.is_relative_to(path)


def _free(store: Store) -> int:
    """Free bytes where the store is, or more than enough when it does not exist."""
    try:
        return shutil.disk_usage(store.root).free
    except OSError:
        return _NO_ROOM


def _new(store: Store) -> Path:
    return store.graphs / WORK / f"{os.getpid()}-{secrets.token_hex(4)}"


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
