"""The check of a graph before anything of it is loaded: who owns it, and that every byte is as it was built."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from .. import keys
from .entries import Broken, Item, Refused, Store, read_manifest, unreadable
from .manifest import MANIFEST, USES, Damage, parse, render


def check_owner(store: Store, folder: Path | None = None) -> None:
    """Refuse when others could have written here: the root and all folders down to `folder` must be ours alone.

    Raises Refused, which names the folder and the command that mends it; the entry itself is not at fault. Raises
    StoreError where this user may not even look.
    """
    chain = [store.root, store.graphs]
    if folder is not None:
        chain += [folder.parent.parent, folder.parent]
    for path in chain:
        try:
            about = path.stat() if path == store.root else path.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise unreadable(store, error) from error
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
    text, _ = read_manifest(str(folder))
    manifest = parse(text)
    if text != render(manifest):
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
        check(item.folder, item.digest)
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
