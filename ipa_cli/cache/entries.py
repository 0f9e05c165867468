"""The layout of the store on disk, and the fast listing.

    <root>/graphs-v1/CACHEDIR.TAG
    <root>/graphs-v1/<backend>/<gpu>/<shape>-<16 hex>/manifest.json, proof.json (its signature),
                                              .uses and the files of the graph
    <root>/graphs-v1/.locks/<16 hex>.lock     held while the graph of this key is built, published or removed
    <root>/graphs-v1/.work/…                  graphs on their way in and out, see `scratch`

`.uses` grows by one byte per use: its size is the number of hits, its modification time the last use. That is one
atomic append, and the manifest is never written twice.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ipa_cli.cache import keys
from ipa_cli.cache.keys import Factor, GraphKey
from ipa_cli.cache.manifest import MANIFEST, MAX_MANIFEST, USES, Damage, OtherVersion, decode_factors, parse, summarize
from ipa_cli.errors import IpaError

BUCKET = "graphs-v1"

_ENTRY_NAME = re.compile(r".+-[0-9a-f]{16}")


class StoreError(IpaError):
    """The cache of compiled graphs cannot do what was asked; drawing may go on without it."""


class Refused(StoreError):
    """A graph in the cache is not loaded, because it is not trusted; it is kept."""


class DamagedGraph(StoreError):
    """A graph in the cache is damaged or gone."""


@dataclass(frozen=True)
class Sharing:
    """A remote cache: graphs that are missing here come from `url`; with `push` new ones go there, signed.

    `signing_key` is the file with the private key; None for this user's own.
    """

    url: str
    push: bool = False
    signing_key: Path | None = None


@dataclass(frozen=True)
class Store:
    """A folder of compiled graphs; beyond `max_size` bytes the least recently used ones go (None: no limit)."""

    root: Path
    max_size: int | None = None
    sharing: Sharing | None = None

    @property
    def graphs(self) -> Path:
        return self.root / BUCKET


@dataclass(frozen=True)
class _Item:
    path: str  # plain text: a list of thousands has no time for a Path each
    size: int
    last_used: float

    @cached_property
    def folder(self) -> Path:
        return Path(self.path)

    @property
    def id(self) -> str:
        """The first 16 digits of the key's digest."""
        return self.path[-16:]

    @property
    def backend(self) -> str:
        return self.path.rsplit("/", 3)[1]

    @property
    def gpu(self) -> str:
        return self.path.rsplit("/", 2)[1]

    @property
    def shape(self) -> str:
        return self.path.rsplit("/", 1)[1][:-17]


@dataclass(frozen=True)
class Entry(_Item):
    """A compiled graph whose manifest is as it was written. Sizes in bytes, `last_used` in seconds since 1970."""

    summary: Mapping[str, Any]
    built_with: str  # JSON, the same for most graphs of a store
    hits: int
    stamp: tuple[int, int]  # of the manifest: inode, modification time in ns
    of_root: bool  # nobody but root can have written the manifest
    text: bytes

    @property
    def digest(self) -> str:
        return self.summary["digest"]

    @property
    def created(self) -> str:
        """When it was built, in ISO 8601."""
        return self.summary["created"]

    @property
    def model(self) -> str | None:
        """The name of the model it was made for."""
        return self.summary["model"]

    @property
    def factors(self) -> Mapping[str, Factor]:
        """The key's factors about what it was built with: machine, versions, our own code."""
        return decode_factors(self.built_with)

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """The whole manifest. Raises DamagedGraph where only its first lines are valid."""
        try:
            return parse(self.text)
        except Damage as damage:
            raise DamagedGraph(
                f"graph {self.id} is damaged: {damage}", "`ipa cache verify` checks every graph"
            ) from damage

    @cached_property
    def key(self) -> GraphKey:
        return keys.from_dict(self.manifest["key"])

    @property
    def describe(self) -> Mapping[str, Any]:
        """What the graph was made for: the model's name, sizes."""
        return self.manifest["describe"]

    @property
    def figures(self) -> Mapping[str, Any]:
        """What was measured while building: parity, and so on."""
        return self.manifest["figures"]

    @property
    def build_seconds(self) -> float:
        return self.manifest["build_seconds"]


@dataclass(frozen=True)
class _Unknown(_Item):
    reason: str
    model = created = None
    hits = 0


class BrokenGraph(_Unknown):
    """A folder where a graph should be, and why it is not one."""


class UnreadableGraph(_Unknown):
    """A graph whose manifest this ipa cannot read, and why: another version wrote it, or permission is missing."""


Item = Entry | BrokenGraph | UnreadableGraph


def scan(store: Store) -> list[Item]:
    """Every graph of the store, see `iter_entries`."""
    return list(iter_entries(store))


def iter_entries(store: Store) -> Iterator[Item]:
    """Every graph of the store, broken and unreadable ones with the reason; only manifests are read.

    Raises StoreError when the store itself cannot be read. Names that are not the store's are left alone.
    """
    try:
        for backend in _folders(store.graphs):
            for gpu in _folders(backend):
                with os.scandir(gpu) as children:
                    paths = [child.path for child in children if _ENTRY_NAME.fullmatch(child.name)]
                yield from filter(None, map(read, paths))
    except OSError as error:
        raise read_error(store, error) from error


def read_error(store: Store, error: OSError) -> StoreError:
    """The StoreError for an `error` met while looking into the store."""
    check = "" if isinstance(error, NotADirectoryError) else f"check the permissions of {error.filename}, or "
    return StoreError(
        f"cannot read the graph cache {store.root}: {error.strerror}", f"{check}name another folder with --cache-dir"
    )


def scan_backend(store: Store, backend: str) -> list[Entry | BrokenGraph]:
    """The graphs of one backend with their whole manifests; BrokenGraph where only the first lines are valid."""
    found: list[Entry | BrokenGraph] = []
    for item in iter_entries(store):
        if isinstance(item, UnreadableGraph) or item.backend != backend:
            continue
        if isinstance(item, Entry):
            try:
                item.manifest  # noqa: B018 (read here, kept)
            except DamagedGraph as lost:
                item = BrokenGraph(item.path, item.size, item.last_used, lost.message)
        found.append(item)
    return found


def read(path: str) -> Item | None:
    """The graph in the folder `path`: BrokenGraph or UnreadableGraph when it is not intact, None when nothing is there.

    Raises OSError when the way to it is closed.
    """
    try:
        try:
            text, about = read_manifest(path)
            summary, built_with = summarize(text)
            if not path.endswith(f"-{summary['digest'][:16]}"):
                raise Damage("its manifest belongs to another graph")
            stamp = (about.st_ino, about.st_mtime_ns)
            of_root = about.st_uid == 0 and not about.st_mode & 0o022
            last_used, hits = _uses(path, stamp)
            return Entry(path, summary["size"], last_used, summary, built_with, hits, stamp, of_root, text)
        except PermissionError as error:
            kind: type[BrokenGraph | UnreadableGraph] = UnreadableGraph
            reason = f"its manifest cannot be read: {error.strerror}"
        except OtherVersion as other:
            kind, reason = UnreadableGraph, f"made by another version of ipa: {other}"
        except Damage as damage:
            kind, reason = BrokenGraph, str(damage)
        return kind(path, disk_size(path), os.lstat(path).st_mtime, reason)
    except FileNotFoundError:
        return None


def read_manifest(folder: str) -> tuple[bytes, os.stat_result]:
    """The text of the manifest and the status of its file. Raises Damage, PermissionError."""
    try:
        descriptor = os.open(f"{folder}/{MANIFEST}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_MANIFEST:
                raise Damage("its manifest is not a small regular file")
            text = os.read(descriptor, about.st_size)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise Damage("it has no manifest") from None
    except PermissionError:
        raise
    except OSError as error:
        raise Damage(f"its manifest cannot be read: {error.strerror}") from error
    return text, about


def _folders(parent: Path) -> Iterator[Path]:
    """The folders in `parent` that can lead to graphs; none when it does not exist."""
    try:
        with os.scandir(parent) as children:
            names = [
                child.name
                for child in children
                if not child.name.startswith(".") and child.is_dir(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return
    yield from (parent / name for name in sorted(names))


def _uses(folder: str, stamp: tuple[int, int]) -> tuple[float, int]:
    """When the entry was last used, and how often."""
    try:
        about = os.lstat(f"{folder}/{USES}")
    except FileNotFoundError:
        return stamp[1] / 1e9, 0
    return about.st_mtime, about.st_size


def disk_size(folder: str) -> int:
    """The bytes of all files below `folder`, links not followed."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(f"{where}/{name}").st_size
            except OSError:  # gone meanwhile
                continue
    return total
