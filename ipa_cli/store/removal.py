"""What goes out of the store: a plan of what and how much, its execution, the size limit, and sweeping up."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import IpaError, UsageError
from .entries import BUCKET, Entry, Item, Store, StoreError, read, scan
from .manifest import MANIFEST

BUILDING = ".building-"
TRASH = ".trash-"
LOCKS = ".locks"
_TAG = "CACHEDIR.TAG"
_TAG_TEXT = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# Graphs compiled by ipa; all of it can be removed and is then built again.\n"
)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_ROOM = 1 << 20


class InUse(Exception):
    """Another process uses, builds or removes this graph; never leaves the store."""


@dataclass(frozen=True)
class Plan:
    """What would be removed; `size` in bytes."""

    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)


@dataclass(frozen=True)
class Removed:
    """What a plan did: removed items, and items left with the reason."""

    items: tuple[Item, ...]
    kept: tuple[tuple[Item, str], ...]

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)


def find(items: Iterable[Item], prefix: str) -> Item:
    """The one graph whose digest begins with `prefix`. Raises UsageError for none or several."""
    prefix = prefix.lower()
    found = [item for item in items if prefix and _digest(item).startswith(prefix)]
    if not found:
        raise UsageError(f"no graph in the cache begins with {prefix!r}", "`ipa cache ls` shows the keys")
    if len(found) > 1:
        ids = ", ".join(sorted(item.id for item in found)[:4])
        raise UsageError(f"{len(found)} graphs begin with {prefix!r}: {ids}", "type more digits of the key")
    return found[0]


def _digest(item: Item) -> str:
    return item.digest if isinstance(item, Entry) else item.id


def plan(
    items: Sequence[Item],
    *,
    prefixes: Sequence[str] = (),
    wanted: Callable[[Item], bool] = lambda item: True,
    used_before: float | None = None,
    max_size: int | None = None,
) -> Plan:
    """Choose what to remove of `items`, all of a store; each condition narrows the choice.

    `prefixes` of digests, a condition `wanted`, last use before a time (seconds since 1970); with `max_size`, of these
    only as many as bring the whole store below so many bytes, broken ones first, then the least recently used.
    Raises UsageError for a prefix of none or several.
    """
    chosen = {find(items, prefix).folder for prefix in prefixes}
    order = sorted(
        (
            item
            for item in items
            if (not prefixes or item.folder in chosen)
            and wanted(item)
            and (used_before is None or item.last_used < used_before)
        ),
        key=lambda item: (isinstance(item, Entry), item.last_used, item.folder),
    )
    if max_size is None:
        return Plan(tuple(order))
    total, going = sum(item.size for item in items), []
    for item in order:
        if total <= max_size:
            break
        total -= item.size
        going.append(item)
    return Plan(tuple(going))


def execute(store: Store, plan: Plan) -> Removed:
    """Remove what the plan names, as it was when planned; what is in use or was rebuilt since stays.

    Raises StoreError when the store cannot be written.
    """
    gone: list[Item] = []
    kept: list[tuple[Item, str]] = []
    with writing(store):
        for item in plan.items:
            try:
                with key_lock(store, item.id, wait=False):
                    if _same(item, read(item.path)):
                        _take_out(store, item)
                        gone.append(item)
                    else:
                        kept.append((item, "rebuilt or removed meanwhile"))
            except InUse:
                kept.append((item, "in use"))
        sweep(store)
    return Removed(tuple(gone), tuple(kept))


def evict(store: Store, keep: Collection[Path]) -> Removed:
    """Bring the store below its size limit, least recently used graphs first, without touching `keep`."""
    if store.max_size is None:
        return Removed((), ())
    chosen = plan(scan(store), wanted=lambda item: item.folder not in keep, max_size=store.max_size)
    return execute(store, chosen) if chosen.items else Removed((), ())


def sweep(store: Store, held: str | None = None) -> None:
    """Remove what dead processes left half built or half removed; `held` is the id whose lock the caller has."""
    for path in list(store.graphs.iterdir()):
        name = path.name
        if name.startswith(TRASH):
            remove(path)
        elif name.startswith(BUILDING):
            id = name[len(BUILDING) :].split("-")[0]
            if id == held:
                remove(path)
                continue
            try:
                with key_lock(store, id, wait=False):
                    remove(path)
            except InUse:
                continue


def _same(planned: Item, now: Item | None) -> bool:
    if isinstance(planned, Entry):
        return isinstance(now, Entry) and now.stamp == planned.stamp
    return now is not None and not isinstance(now, Entry)


def _take_out(store: Store, item: Item) -> None:
    if isinstance(item, Entry):
        with alone(item.folder):
            trash(store, item.folder)
    else:  # nobody can have opened a broken one
        trash(store, item.folder)


def trash(store: Store, folder: Path) -> None:
    """Take `folder` out of the store at once, then delete it; nothing is there afterwards, whenever we are killed."""
    away = store.graphs / f"{TRASH}{os.getpid()}-{secrets.token_hex(4)}"
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
    """Make the store's own folders, for us alone, and the tag by which backup programs know a cache."""
    make_folders(store.root, Path(BUCKET, LOCKS))
    tag = store.graphs / _TAG
    if not tag.exists():
        tag.write_text(_TAG_TEXT)


def make_folders(base: Path, inner: Path) -> None:
    """Make `base` and the folders of `inner` below it, mode 0700."""
    base.parent.mkdir(parents=True, exist_ok=True)
    for path in (base, *reversed([base / part for part in (inner, *inner.parents) if part != Path()])):
        path.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def key_lock(store: Store, id: str, wait: bool = True, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the right to build, publish or remove the graph `id`; calls `waiting` once when another process has it.

    Raises InUse when it is taken and `wait` is false. Ends with the process, however that ends.
    """
    from filelock import FileLock, Timeout  # slow to import, and most commands lock nothing

    make_folders(store.root, Path(BUCKET, LOCKS))
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
    """Keep the graph in `folder` from being removed, together with others; ends with the process.

    The lock is on the manifest, opened for reading, so that it works in a read-only cache too. Raises InUse while the
    graph is being removed, FileNotFoundError when it is gone.
    """
    with _manifest_lock(folder, os.O_RDONLY, fcntl.LOCK_SH):
        yield


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only one at the graph in `folder`. Raises InUse when somebody has it open, FileNotFoundError when gone."""
    with _manifest_lock(folder, os.O_RDWR, fcntl.LOCK_EX):
        yield


@contextmanager
def _manifest_lock(folder: Path, access: int, kind: int) -> Iterator[None]:
    descriptor = os.open(folder / MANIFEST, access | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(str(folder)) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def writing(store: Store) -> Iterator[None]:
    """Turn a full or closed disk into a StoreError; every other failure stays what it is."""
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
        if number in _CLOSED and str(error.filename).startswith(str(store.root)):
            return f"the graph cache cannot be written: {words}", "name a folder you can write to with --cache-dir"
    # Libraries report a failed write in their own words, so a full disk is also told by its free space.
    if number in _FULL or (not isinstance(error, IpaError | InUse) and _free(store) < _NO_ROOM):
        return (
            f"the graph cache {store.root} cannot hold more: {words}",
            "`ipa cache clear --older-than 30d` makes room, or name another folder with --cache-dir",
        )
    return None


def _free(store: Store) -> int:
    """Free bytes where the store is, or more than enough when it does not exist."""
    try:
        return shutil.disk_usage(store.root).free
    except OSError:
        return _NO_ROOM
