"""Compare every byte of a graph with its manifest, and copy it meanwhile: what was compared is what is loaded."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipa_cli.cache import keys
from ipa_cli.cache.entries import BrokenGraph, Entry, Item
from ipa_cli.cache.locks import shared
from ipa_cli.cache.manifest import Damage, parse, render

_CHUNK = 1 << 20


def check_manifest(entry: Entry) -> dict[str, Any]:
    """The manifest of `entry`. Raises Damage when it has changed."""
    if entry.folder.is_symlink():
        raise Damage("its folder is a link")
    manifest = parse(entry.text)
    if entry.text != render(manifest):
        raise Damage("its manifest has changed")
    key = keys.from_dict(manifest["key"])
    if key.digest != manifest["digest"] or entry.digest != key.digest:
        raise Damage("its manifest belongs to another graph")
    return manifest


def manifest_of(folder: str, text: bytes) -> dict[str, Any]:
    """The manifest in `text`, which was sent as that of the graph `folder`. Raises Damage when it is no such one."""
    manifest = parse(text)
    key = keys.from_dict(manifest["key"])
    if text != render(manifest) or key.digest != manifest["digest"]:
        raise Damage("its manifest has changed")
    if key.folder != folder:
        raise Damage(f"its manifest belongs to another graph, {key.folder}")
    return manifest


def check(entry: Entry, copy: Path | None = None) -> dict[str, Any]:
    """The manifest of `entry`, after comparing every byte with it; the same bytes are written to the folder `copy`.

    Files that the manifest does not name are ignored. Raises Damage, and OSError when something cannot be read.
    """
    manifest = check_manifest(entry)
    for name, file in manifest["files"].items():
        if copy is not None:
            (copy / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _sha256(entry.folder, name, file["size"], copy) != file["sha256"]:
            raise Damage(f"{name} has changed")
    return manifest


def verify(item: Item) -> str | None:
    """What is damaged in a graph, after reading every byte; None when it is intact, or another version made it.

    Raises FileNotFoundError when it is gone, InUse while it is being removed, OSError when it cannot be read.
    """
    if not isinstance(item, Entry):
        return item.reason if isinstance(item, BrokenGraph) else None
    try:
        with shared(item.folder):
            check(item)
    except Damage as damage:
        return str(damage)
    return None


def sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return _read(file.readinto)


def _sha256(folder: Path, name: str, size: int, copy: Path | None) -> str:
    """The digest of one file of an entry, which is written to `copy` as it is read. Raises Damage, OSError."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Damage(f"{name} is missing") from None
    except OSError as error:
        if (folder / name).is_symlink():
            raise Damage(f"{name} is a link") from error
        raise
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise Damage(f"{name} is not a regular file")
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if about.st_size != size:
            raise Damage(f"{name} has {about.st_size} bytes, not {size}")
        if copy is None:
            return _read(file.readinto)
        with os.fdopen(os.open(copy / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
            return _read(file.readinto, target.write)


def _read(readinto: Callable[[Any], int], write: Callable[[Any], Any] = len) -> str:
    # Not hashlib.file_digest: Python 3.10 lacks it.
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    while count := readinto(buffer):
        digest.update(buffer[:count])
        write(buffer[:count])
    return digest.hexdigest()
