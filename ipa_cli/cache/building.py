"""Look a graph up, open it after a full check, or build it once."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from ipa_cli import __version__
from ipa_cli.cache import keys, signature
from ipa_cli.cache.checking import check, check_manifest, sha256
from ipa_cli.cache.entries import (
    BrokenGraph,
    DamagedGraph,
    Entry,
    Item,
    Refused,
    Store,
    StoreError,
    UnreadableGraph,
    read,
    read_error,
    scan_backend,
)
from ipa_cli.cache.keys import GraphKey
from ipa_cli.cache.locks import InUse, key_lock, shared
from ipa_cli.cache.manifest import MANIFEST, SCHEMA_VERSION, USES, Damage, render, safe_name
from ipa_cli.cache.removal import Plan, Removed, evict, execute
from ipa_cli.cache.scratch import check_free_space, make_folders, prepare, scratch_folder, translate_disk_errors, trash
from ipa_cli.cache.trust import check_owner, check_temporary_folder, permission_problem, trust_problem

Signer = Callable[[Path, bytes], None]
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
        return keys.summarize_differences(self.reasons) or "nothing has been compiled for this backend yet"


@dataclass(frozen=True)
class Built:
    """A whole entry; `fresh` when this call built it, `evicted` what had to go for it."""

    entry: Entry
    fresh: bool
    evicted: Removed = Removed((), ())


def lookup(store: Store, key: GraphKey) -> Hit | Miss:
    """Whether the graph of `key` is in the store, by its manifest alone. Raises StoreError when it is unreadable."""
    item = _read(store, key)
    if isinstance(item, Entry) and item.key == key:
        return Hit(item)
    if isinstance(item, BrokenGraph):
        return Miss((f"the graph on disk is broken: {item.reason}",))
    others = [item for item in scan_backend(store, key.backend) if isinstance(item, Entry)]
    if not others:
        return Miss(())
    nearest = min(others, key=lambda other: (len(keys.list_differences(other.key, key)), -other.last_used))
    return Miss(tuple(keys.list_differences(nearest.key, key)), nearest)


@contextmanager
def open_graph(store: Store, entry: Entry) -> Iterator[Path]:
    """A private copy of the files of a graph, safe to load native code from; the graph is kept while the block lasts.

    Who could have written it, its signature and every byte are checked first, see `trust`. Counts as a use.
    Raises Refused when it is kept but not loaded, DamagedGraph when it is gone or damaged (and then removed), and
    StoreError when it cannot be read or copied.
    """
    with ExitStack() as held:
        try:
            held.enter_context(shared(entry.folder))
            _check_trusted(entry)
            folder = held.enter_context(_private(store, 2 * entry.size))  # room for what a backend unpacks, too
            check(entry, folder)
        except (InUse, FileNotFoundError) as error:
            raise DamagedGraph(f"graph {entry.id} is not loaded: another process removed it", "try again") from error
        except Damage as damage:
            held.close()
            after = "it was removed" if discard(store, entry) else "it cannot be removed"
            raise DamagedGraph(
                f"graph {entry.id} is damaged: {damage}; {after}", "`ipa compile` builds it again"
            ) from damage
        except OSError as error:
            raise StoreError(
                f"graph {entry.id} cannot be opened: {error.strerror}: {error.filename}",
                "check the permissions, or name another folder with --cache-dir",
            ) from error
        _count_use(entry.folder)
        yield folder


@contextmanager
def _private(store: Store, size: int) -> Iterator[Path]:
    """A folder of this process alone with room for `size` bytes: the store's, or where that is closed or full TMPDIR's.

    Raises StoreError when neither will do.
    """
    with ExitStack() as lasting:
        try:
            folder = lasting.enter_context(scratch_folder(store))
            enough = shutil.disk_usage(folder).free > size
        except Refused:
            raise
        except (OSError, StoreError):
            enough = False
        if not enough:
            lasting.close()
            try:
                folder = Path(lasting.enter_context(tempfile.TemporaryDirectory(prefix="ipa-graph-")))
            except OSError as error:
                raise StoreError(f"no graph can be opened: {error}", "set TMPDIR to a folder of your own") from error
            check_temporary_folder(folder)
            check_free_space(folder.parent, size, "opening a graph")
        yield folder


def discard(store: Store, entry: Entry) -> bool:
    """Remove a damaged entry, if it is still the same and the store can be written; whether it is gone.

    One that stays does no harm: it is checked at every use, and `build` replaces it.
    """
    try:
        return bool(execute(store, Plan((entry,))).items)
    except StoreError:
        return False


def mark_trusted(store: Store, entry: Entry) -> None:
    """Sign a graph with this user's key, after a check of every byte: from now on its code is run.

    Raises Refused when others could have written it since, DamagedGraph when it is damaged or gone, StoreError when the
    signature cannot be stored.
    """
    check_owner(store, entry.folder)
    with translate_disk_errors(store):
        prepare(store)
        with key_lock(store, entry.id):
            try:
                check(entry)
            except (Damage, FileNotFoundError) as error:
                raise DamagedGraph(
                    f"graph {entry.id} is damaged: {error}", f"`ipa cache clear {entry.id[:8]}`"
                ) from error
            signature.add(entry.folder, entry.text, signature.signing_key())


def check_storable(store: Store) -> None:
    """Raise StoreError now where `build` would after the long work: the store cannot be written, or there is no key."""
    check_owner(store)
    signature.signing_key()
    with translate_disk_errors(store):
        prepare(store)


def build(
    store: Store,
    key: GraphKey,
    describe: Mapping[str, Any],
    builder: Builder,
    waiting: Callable[[], None] | None = None,
    room: int = 0,
) -> Built:
    """The entry of `key`, built by `builder` unless a whole one is there; one builder per key across processes.

    `builder` fills the folder it is given and may return figures (parity, …) for the manifest; `describe` is kept in
    it too (model name, sizes). `waiting` is called once when another process is building the same graph; `room` is how
    many bytes the work takes. Raises Refused when the graph is there and must not be loaded, StoreError when the disk
    is full or read-only; whatever `builder` raises passes, and nothing is left behind.
    """
    check_owner(store, store.graphs / key.folder)
    if (present := find_intact(store, key)) is not None:  # needs no right to write
        return Built(present, fresh=False)
    keys.canonical(dict(describe))  # what cannot be kept should fail before the work, not after
    signing = signature.signing_key()
    with translate_disk_errors(store):
        prepare(store)
        with key_lock(store, key.short, waiting=waiting):
            if (present := find_intact(store, key)) is not None:  # another process has built it meanwhile
                return Built(present, fresh=False)
            with scratch_folder(store) as folder:
                check_free_space(store.root, room, "compiling")
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
                        "files": hash_files(folder),
                    },
                    partial(signature.add, key=signing),
                )
        return Built(entry, fresh=True, evicted=evict(store, keep={entry.folder}))


def find_intact(store: Store, key: GraphKey) -> Entry | None:
    """The entry of `key` after a full check; None when there is none or it is damaged.

    Raises Refused when there is one that must be neither loaded nor replaced.
    """
    item = _read(store, key)
    if isinstance(item, UnreadableGraph):
        raise Refused(
            f"graph {item.id} cannot be replaced: {item.reason}",
            f"`ipa cache clear {item.id[:8]}` removes it",
        )
    if not isinstance(item, Entry):
        return None
    try:
        _check_trusted(item)
        check(item)
    except Damage:
        return None
    return item


def _read(store: Store, key: GraphKey) -> Item | None:
    """What lies in the place of `key`. Raises StoreError when the way there is closed."""
    try:
        return read(str(store.graphs / key.folder))
    except OSError as error:
        raise read_error(store, error) from error


def _check_trusted(entry: Entry) -> None:
    """Raise Refused unless `entry` is trusted, Damage when its manifest has changed; its files are not read."""
    if (problem := trust_problem(entry)) is not None:
        if permission_problem(entry.folder) is None:
            check_manifest(entry)  # trusting a damaged graph would not help
        raise Refused(f"graph {entry.id} is not loaded: {problem.message}", problem.hint)


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every file below `folder` by name; makes them private (0600) and syncs them to disk.

    Raises ValueError when a backend left a link, a device, or a file with one of the store's own names.
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
            raise ValueError(f"a graph cannot hold {name!r}: only regular files with plain names")
        _sync(path)
    if not files:
        raise ValueError("the backend wrote no file")
    return files


def publish(store: Store, folder: Path, manifest: Mapping[str, Any], sign: Signer) -> Entry:
    """Turn a finished folder into the entry of its key, in place of a damaged one. Hold the key lock.

    `sign` is handed the folder and the text of the manifest, and adds a signature.
    """
    key = keys.from_dict(manifest["key"])
    target = store.graphs / key.folder
    (folder / USES).touch(0o600)
    (folder / MANIFEST).write_bytes(text := render(manifest))
    (folder / MANIFEST).chmod(0o600)
    sign(folder, text)
    for path in (folder / MANIFEST, folder):
        _sync(path)
    make_folders(store.root, target.parent.relative_to(store.root))
    trash(store, target)
    folder.rename(target)
    for path in (target.parent, *target.parent.parents[:2]):
        _sync(path)
    entry = read(str(target))
    if not isinstance(entry, Entry):
        raise DamagedGraph(f"graph {key.short} disappeared while it was stored", "try again")
    return entry


def _count_use(folder: Path) -> None:
    # A read-only or full cache is no reason not to use what is in it.
    with suppress(OSError):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(folder / USES, flags, 0o600)
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
