"""The way in and the way out to a session: look a graph up, open it after a full check, build it once."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import __version__, keys
from ..keys import GraphKey
from .checking import check, check_owner, sha256
from .entries import Broken, Entry, Refused, Store, StoreError, read, scan, unreadable
from .locks import InUse, key_lock, shared
from .manifest import MANIFEST, SCHEMA_VERSION, USES, Damage, render, safe_name
from .removal import Plan, Removed, evict, execute
from .work import make_folders, prepare, scratch, sweep, trash, writing

Builder = Callable[[Path], "Mapping[str, Any] | None"]


@dataclass(frozen=True)
class Hit:
    """The graph is there; its content is checked by `opened`."""

    entry: Entry


@dataclass(frozen=True)
class Miss:
    """The graph is not there. `reasons`: how the nearest one differs, in words; empty when the backend has none."""

    reasons: tuple[str, ...]
    nearest: Entry | None = None

    @property
    def reason(self) -> str:
        return keys.in_short(self.reasons) or "nothing has been compiled for this backend yet"


@dataclass(frozen=True)
class Built:
    """A whole entry; `fresh` when this call built it, `evicted` what had to go for it."""

    entry: Entry
    fresh: bool
    evicted: Removed = Removed((), ())


def lookup(store: Store, key: GraphKey) -> Hit | Miss:
    """Whether the graph of `key` is in the store, by its manifest alone. Raises StoreError when it is unreadable."""
    try:
        item = read(str(store.graphs / key.folder))
    except OSError as error:
        raise unreadable(store, error) from error
    if isinstance(item, Entry) and item.key == key:
        return Hit(item)
    if isinstance(item, Broken):
        return Miss((f"the graph on disk is broken: {item.reason}",))
    others = [item for item in scan(store) if isinstance(item, Entry) and item.backend == key.backend]
    if not others:
        return Miss(())
    nearest = min(others, key=lambda other: (len(keys.difference(other.key, key)), -other.last_used))
    return Miss(tuple(keys.difference(nearest.key, key)), nearest)


@contextmanager
def opened(store: Store, entry: Entry) -> Iterator[Path]:
    """The folder of a graph, safe to load native code from; while open, nothing removes it.

    Everything is checked first: owner, modes, no links, exactly the files of the manifest, every SHA-256. Counts as a
    use. Raises Refused; a damaged graph is then taken out, so that the next `build` makes it anew.
    """
    check_owner(store, entry.folder)
    with ExitStack() as held:
        problem = _admit(held, entry)
        if problem is None:
            _count_use(entry.folder)
            yield entry.folder
            return
    discard(store, entry)
    raise Refused(
        f"graph {entry.id} is not loaded: {problem}", "it is built again; `ipa cache verify` checks the others"
    )


def _admit(held: ExitStack, entry: Entry) -> str | None:
    """Hold the entry against removal, then check all of it; what is wrong, in words."""
    try:
        held.enter_context(shared(entry.folder))
        check(entry.folder, entry.digest)
    except InUse:
        return "another process is removing it"
    except OSError as error:
        return f"its manifest cannot be opened: {error.strerror}"
    except Damage as damage:
        return str(damage)
    return None


def discard(store: Store, entry: Entry) -> bool:
    """Take one bad entry out, if it is still the same and the store can be written; whether it is gone.

    One that stays does no harm: it is checked at every use, and `build` replaces it.
    """
    try:
        return bool(execute(store, Plan((entry,))).items)
    except StoreError:
        return False


def build(
    store: Store,
    key: GraphKey,
    describe: Mapping[str, Any],
    builder: Builder,
    waiting: Callable[[], None] | None = None,
) -> Built:
    """The entry of `key`, built by `builder` unless a whole one is there; one builder per key across processes.

    `builder` fills the folder it is given and may return figures (parity, …) for the manifest; `describe` is kept in
    it too (model name, sizes). `waiting` is called once when another process is building the same graph. Raises
    StoreError when the disk is full or read-only; whatever `builder` raises passes, and nothing is left behind.
    """
    check_owner(store, store.graphs / key.folder)
    if (present := whole(store, key)) is not None:  # needs no right to write
        return Built(present, fresh=False)
    keys.canonical(dict(describe))  # what cannot be kept should fail before the work, not after
    with writing(store):
        prepare(store)
        with key_lock(store, key.short, waiting=waiting):
            if (present := whole(store, key)) is not None:  # another process has built it meanwhile
                return Built(present, fresh=False)
            sweep(store)
            with scratch(store) as folder:
                started = time.perf_counter()
                figures = builder(folder)
                entry = publish(
                    store,
                    folder,
                    {
                        "schema_version": SCHEMA_VERSION,
                        "digest": key.digest,
                        "key": key.as_dict(),
                        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                        "tool": f"ipa {__version__}",
                        "build_seconds": round(time.perf_counter() - started, 3),
                        "describe": dict(describe),
                        "figures": dict(figures or {}),
                        "files": seal_files(folder),
                    },
                )
        return Built(entry, fresh=True, evicted=evict(store, keep={entry.folder}))


def whole(store: Store, key: GraphKey) -> Entry | None:
    """The entry of `key` after a full check; None when there is none or it is damaged."""
    item = read(str(store.graphs / key.folder))
    if not isinstance(item, Entry):
        return None
    try:
        check(item.folder, key.digest)
    except Damage:
        return None
    return item


def seal_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Make all below `folder` ours alone and durable; name, SHA-256 and size of every file.

    Raises ValueError when a backend left a link, a device, or a name that is the store's own.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        name = path.relative_to(folder).as_posix()
        if stat.S_ISDIR(mode):
            path.chmod(0o700)
        elif stat.S_ISREG(mode) and safe_name(name):
            path.chmod(0o600)
            files[name] = {"sha256": sha256(path), "size": path.stat().st_size}
        else:
            raise ValueError(f"a graph cannot hold {name!r}: only plain files with plain names")
        _sync(path)
    if not files:
        raise ValueError("the backend left no file")
    return files


def publish(store: Store, folder: Path, manifest: Mapping[str, Any]) -> Entry:
    """Turn a finished workspace into the entry of its key, replacing a damaged one. Hold the key lock."""
    key = keys.from_dict(manifest["key"])
    target = store.graphs / key.folder
    (folder / USES).touch(0o600)
    (folder / MANIFEST).write_bytes(render(manifest))
    (folder / MANIFEST).chmod(0o600)
    for path in (folder / MANIFEST, folder):
        _sync(path)
    make_folders(store.root, target.parent.relative_to(store.root))
    trash(store, target)
    folder.rename(target)
    for path in (target.parent, *target.parent.parents[:2]):
        _sync(path)
    entry = read(str(target))
    if not isinstance(entry, Entry):
        raise Refused(f"graph {key.short} vanished while it was stored", "try again")
    return entry


def _count_use(folder: Path) -> None:
    # A read-only or full cache is no reason not to use what is in it.
    with suppress(OSError):
        descriptor = os.open(folder / USES, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            os.write(descriptor, b"\n")
        finally:
            os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
