"""What lies on disk: the layout of the store, manifests, the fast listing, and the check before anything is loaded.

    <root>/graphs-v1/CACHEDIR.TAG
    <root>/graphs-v1/<backend>/<gpu>/<shape>-<16 hex>/manifest.json, .uses and the files of the graph
    <root>/graphs-v1/.locks/<16 hex>.lock     held while the graph of this key is built, published or removed
    <root>/graphs-v1/.building-<16 hex>-…     a graph on its way in; garbage once its lock is free
    <root>/graphs-v1/.trash-…                 a graph on its way out

`.uses` grows by one byte per use: its size is the number of hits, its modification time the last use. That is one
atomic append, and the manifest is never written twice.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from .. import keys
from ..errors import IpaError
from ..keys import Factor, GraphKey

BUCKET = "graphs-v1"
MANIFEST = "manifest.json"
USES = ".uses"
SCHEMA_VERSION = 1
MAX_MANIFEST = 4 << 20

_ENTRY_NAME = re.compile(r".+-[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema_version": int,
    "digest": str,
    "key": dict,
    "created": str,
    "tool": str,
    "build_seconds": (int, float),
    "describe": dict,
    "figures": dict,
    "files": dict,
    "seal": str,
}


class StoreError(IpaError):
    """The cache of compiled graphs cannot do what was asked; a session may go on without it."""


class Refused(StoreError):
    """A graph in the cache is not loaded, because it is not certainly what was built."""


class Damage(Exception):
    """What is wrong with one entry, in words; never leaves the store."""


@dataclass(frozen=True)
class Store:
    """A folder of compiled graphs; beyond `max_size` bytes the least recently used ones go (None: no limit)."""

    root: Path
    max_size: int | None = None

    @property
    def graphs(self) -> Path:
        return self.root / BUCKET


@dataclass(frozen=True)
class _Item:
    folder: Path
    size: int
    last_used: float

    @property
    def id(self) -> str:
        """The first 16 digits of the key's digest."""
        return self.folder.parts[-1][-16:]

    @property
    def backend(self) -> str:
        return self.folder.parts[-3]

    @property
    def gpu(self) -> str:
        return self.folder.parts[-2]

    @property
    def shape(self) -> str:
        return self.folder.parts[-1][:-17]


@dataclass(frozen=True)
class Entry(_Item):
    """A compiled graph whose manifest reads well. Sizes in bytes, `last_used` in seconds since 1970."""

    manifest: Mapping[str, Any]
    hits: int
    stamp: tuple[int, int]

    @cached_property
    def key(self) -> GraphKey:
        return keys.from_dict(self.manifest["key"])

    @property
    def factors(self) -> Mapping[str, Factor]:
        """The key's factors; quicker than `key` for listings of many."""
        return self.manifest["key"]["factors"]

    @property
    def created(self) -> datetime:
        return datetime.fromisoformat(self.manifest["created"])

    @property
    def describe(self) -> Mapping[str, Any]:
        """What the maker said about the graph: the model's name, sizes."""
        return self.manifest["describe"]

    @property
    def figures(self) -> Mapping[str, Any]:
        """What the builder measured: parity, and so on."""
        return self.manifest["figures"]

    @property
    def build_seconds(self) -> float:
        return self.manifest["build_seconds"]


@dataclass(frozen=True)
class Broken(_Item):
    """A folder where a graph should be, and why it is none."""

    reason: str


Item = Entry | Broken


def scan(store: Store) -> list[Item]:
    """Every graph of the store, broken ones with their reason; the content of the files is not read.

    Raises StoreError when the store itself cannot be read. Names that are not the store's are left alone.
    """
    found: list[Item] = []
    collecting = gc.isenabled()
    gc.disable()  # all that is read here stays: looking for garbage among it costs a third of the time
    try:
        for backend in _folders(store.graphs):
            for gpu in _folders(backend):
                with os.scandir(gpu) as children:
                    names = [child.name for child in children if _ENTRY_NAME.fullmatch(child.name)]
                found += [item for name in names if (item := read(gpu / name)) is not None]
    except OSError as error:
        raise StoreError(
            f"cannot read the graph cache {store.root}: {error.strerror}",
            f"check the permissions of {error.filename}, or name another folder with --cache-dir",
        ) from error
    finally:
        if collecting:
            gc.enable()
    return found


def read(folder: Path) -> Item | None:
    """The entry in `folder`: None when nothing is there, Broken when it is not a whole one."""
    path = str(folder)
    try:
        try:
            manifest, stamp = read_manifest(path)
            if not folder.name.endswith(f"-{manifest['digest'][:16]}"):
                raise Damage("its manifest belongs to another graph")
            last_used, hits = _uses(path, stamp)
            size = sum(file["size"] for file in manifest["files"].values())
            return Entry(folder, size, last_used, manifest, hits, stamp)
        except Damage as damage:
            about = os.lstat(path)
            return Broken(folder, _disk_size(path), about.st_mtime, str(damage))
    except FileNotFoundError:
        return None


def read_manifest(folder: str) -> tuple[dict[str, Any], tuple[int, int]]:
    """The manifest and its stamp (inode, modification time in ns). Raises Damage."""
    try:
        descriptor = os.open(f"{folder}/{MANIFEST}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_MANIFEST:
                raise Damage("its manifest is not a plain small file")
            text = os.read(descriptor, about.st_size)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise Damage("it has no manifest") from None
    except OSError as error:
        raise Damage(f"its manifest cannot be read: {error.strerror}") from error
    return parse_manifest(text), (about.st_ino, about.st_mtime_ns)


def parse_manifest(text: bytes) -> dict[str, Any]:
    """The manifest in `text`, every field of the right kind. Raises Damage."""
    try:
        manifest = _JSON.decode(text.decode())
    except (ValueError, RecursionError):
        raise Damage("its manifest is not JSON") from None
    if not isinstance(manifest, dict):
        raise Damage("its manifest is not a table")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise Damage(f"its manifest has schema {manifest.get('schema_version')!r}, not {SCHEMA_VERSION}")
    if manifest.keys() != _FIELDS.keys():
        raise Damage(f"its manifest lacks or adds {min(manifest.keys() ^ _FIELDS.keys())!r}")
    for name, kind in _FIELDS.items():
        if not isinstance(manifest[name], kind):
            raise Damage(f"its manifest has no proper {name!r}")
    for name, file in manifest["files"].items():
        if not safe_name(name):
            raise Damage(f"its manifest names a file outside: {name!r}")
        if not (
            isinstance(file, dict)
            and file.keys() == {"sha256", "size"}
            and isinstance(file["sha256"], str)
            and _SHA256.fullmatch(file["sha256"])
            and type(file["size"]) is int
            and file["size"] >= 0
        ):
            raise Damage(f"its manifest describes {name!r} wrongly")
    try:
        keys.validate(manifest["key"])
        if datetime.fromisoformat(manifest["created"]).tzinfo is None:
            raise ValueError("without a time zone")
    except ValueError as error:
        raise Damage(f"its manifest is wrong: {error}") from error
    return manifest


def _finite(text: str) -> float:
    """A number that JSON can hold: not NaN, and no 1e999, which would read as infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"not a finite number: {text}")
    return number


_JSON = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def render_manifest(fields: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest, sealed: any changed byte, spaces too, shows when it is rendered again."""
    body = {name: value for name, value in fields.items() if name != "seal"}
    seal = hashlib.sha256(keys.canonical(body).encode()).hexdigest()
    text = json.dumps({**body, "seal": seal}, sort_keys=True, indent=1, allow_nan=False)
    return f"{text}\n".encode()


@lru_cache(4096)  # the same few names in every entry of a long list
def safe_name(name: str) -> bool:
    """Whether `name` is a relative path of a file that stays inside its folder and is no name of the store's own."""
    parts = name.split("/")
    return (
        0 < len(name) <= 1024
        and all(part not in ("", ".", "..") and len(part.encode("utf-8", "replace")) <= 255 for part in parts)
        and name.isprintable()
        and "\\" not in name
        and name not in (MANIFEST, USES)
    )


def check_owner(store: Store, folder: Path | None = None) -> None:
    """Refuse when others could have written here: the root and all folders down to `folder` must be ours alone.

    Raises Refused, which names the folder and the command that mends it; the entry itself is not at fault.
    """
    chain = [store.root, store.graphs]
    if folder is not None:
        chain += [folder.parent.parent, folder.parent]
    for path in chain:
        try:
            about = path.stat() if path == store.root else path.lstat()
        except FileNotFoundError:
            return
        problem = _foreign(about) or (None if stat.S_ISDIR(about.st_mode) else "is not a folder")
        if problem:
            raise Refused(
                f"the graph cache is not used: {path} {problem}",
                f"`chmod go-w {path}` if it is yours, or name another folder with --cache-dir",
            )


def check(folder: Path, digest: str | None = None) -> dict[str, Any]:
    """The manifest of the entry in `folder`, after every byte was found as built. Raises Damage.

    The folder and all in it belong to us, mode 0700, no links, exactly the manifest's files, sizes and digests right.
    """
    manifest, _ = read_manifest(str(folder))
    if (folder / MANIFEST).read_bytes() != render_manifest(manifest):
        raise Damage("its manifest has changed")
    key = keys.from_dict(manifest["key"])
    if key.digest != manifest["digest"] or digest not in (None, key.digest):
        raise Damage("its manifest belongs to another graph")
    if folder.is_symlink():
        raise Damage("its folder is a link")
    mode = stat.S_IMODE(folder.lstat().st_mode)
    if mode & 0o077:
        raise Damage(f"others may enter its folder (mode {mode:04o})")
    try:
        present = {name: about for name, about in walk(folder) if name not in (MANIFEST, USES)}
        expected = manifest["files"]
        for name in sorted(present.keys() ^ expected.keys()):
            raise Damage(f"{name} {'is missing' if name in expected else 'does not belong to it'}")
        for name, about in present.items():
            if about.st_size != expected[name]["size"]:
                raise Damage(f"{name} has {about.st_size} bytes, not {expected[name]['size']}")
        for name in present:
            if sha256(folder / name) != expected[name]["sha256"]:
                raise Damage(f"{name} has changed")
    except OSError as error:
        raise Damage(f"{error.filename} cannot be read: {error.strerror}") from error
    return manifest


def verify(store: Store, item: Item) -> str | None:
    """What is wrong with a graph, after reading every byte; None when it is whole. Raises Refused as `check_owner`."""
    check_owner(store, item.folder)
    if isinstance(item, Broken):
        return item.reason
    try:
        check(item.folder, item.manifest["digest"])
    except Damage as damage:
        return str(damage)
    return None


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below `folder` by relative name. Raises Damage on links, devices and what others own or may write."""
    for path in (folder, *sorted(folder.rglob("*"))):
        about = path.lstat()
        name = str(PurePosixPath(path.relative_to(folder)))
        if problem := _foreign(about):
            raise Damage(f"{'its folder' if path == folder else name} {problem}")
        if stat.S_ISREG(about.st_mode):
            yield name, about
        elif not stat.S_ISDIR(about.st_mode):
            raise Damage(f"{name} is neither file nor folder")


def sha256(path: Path) -> str:
    # Not hashlib.file_digest: Python 3.10 lacks it.
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _foreign(about: os.stat_result) -> str | None:
    if stat.S_ISLNK(about.st_mode):
        return "is a link"
    if about.st_uid != os.geteuid():
        return f"belongs to another user (uid {about.st_uid})"
    if about.st_mode & 0o022:
        return f"can be written by others (mode {stat.S_IMODE(about.st_mode):04o})"
    return None


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


def _disk_size(folder: str) -> int:
    """The bytes of all files below `folder`, links not followed."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(f"{where}/{name}").st_size
            except OSError:  # gone meanwhile
                continue
    return total
