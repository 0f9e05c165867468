"""Graphs in one tar file, for another machine of the same kind; the same graphs give the same bytes.

An archive is untrusted until checked: it has an index, then each graph's manifest followed by exactly its files.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ipa_cli.cache import keys, signature
from ipa_cli.cache.building import find_intact, hash_files, publish
from ipa_cli.cache.checking import check, manifest_of
from ipa_cli.cache.entries import Entry, Refused, Store, StoreError, read
from ipa_cli.cache.keys import GraphKey
from ipa_cli.cache.locks import InUse, key_lock, shared
from ipa_cli.cache.manifest import MANIFEST, MAX_MANIFEST, Damage
from ipa_cli.cache.removal import Removed, evict
from ipa_cli.cache.scratch import make_folders, scratch_folder, translate_disk_errors
from ipa_cli.cache.trust import check_owner
from ipa_cli.errors import IpaError
from ipa_cli.system import files

INDEX = "ipa-graphs.json"
ARCHIVE_SCHEMA = 1
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Imported:
    """The entries that an import added, those already there, and those evicted to make room."""

    added: tuple[Entry, ...]
    kept: tuple[Entry, ...]
    evicted: Removed


def export(store: Store, entries: Sequence[Entry], file: Path, overwrite: bool = False) -> int:
    """Write `entries` into the archive `file`; its size in bytes.

    Every graph is checked first. Raises Refused for a damaged one, UsageError when `file` exists, IpaError when it
    cannot be written; no half archive is left.
    """
    if os.path.lexists(file) and not overwrite:
        raise IpaError(f"{file} exists", "choose another name, or add --force")
    entries = sorted(entries, key=lambda entry: entry.key.folder)
    with ExitStack() as held:
        for entry in entries:
            _hold(store, held, entry)
        target = held.enter_context(files.replacing(file, "name a file in a folder with room", overwrite))
        with tarfile.open(fileobj=target, mode="w:", format=tarfile.PAX_FORMAT) as archive:
            _add_bytes(archive, INDEX, _index(entries))
            for entry in entries:
                for name in (MANIFEST, *sorted(entry.manifest["files"])):
                    _add_file(archive, f"{entry.key.folder}/{name}", entry.folder / name)
        return target.tell()


def import_(store: Store, file: Path) -> Imported:
    """Add the graphs of the archive `file` to the store, all of them or none. Intact entries already there are kept.

    The graphs are native code that later runs: the maker of the archive must be trusted, digests only show that it
    arrived unchanged. Raises Refused when anything in the archive is not as `export` writes it, or it does not fit
    into the store's limit or on the disk; StoreError when the file or the store fails.
    """
    check_owner(store)
    try:
        source = file.open("rb")
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror}", "check the name") from error
    with source, translate_disk_errors(store):
        with scratch_folder(store) as folder:
            sign = partial(signature.add, key=signature.signing_key())
            try:
                graphs = _unpack(store, source, folder)
            except Damage as damage:
                raise Refused(
                    f"{file} is not imported: {damage}", "export it again with `ipa cache export`"
                ) from damage
            added, kept = [], []
            for path, manifest in graphs:
                key = keys.from_dict(manifest["key"])
                check_owner(store, store.graphs / key.folder)
                with key_lock(store, key.short):
                    present = _present(store, key)
                    if present is None:
                        added.append(publish(store, path, manifest, sign))
                    else:
                        kept.append(present)
        return Imported(tuple(added), tuple(kept), evict(store, keep={entry.folder for entry in added + kept}))


def _present(store: Store, key: GraphKey) -> Entry | None:
    """The intact graph of `key` that is there already and trusted; one made elsewhere is replaced."""
    try:
        return find_intact(store, key)
    except Refused:
        if isinstance(read(str(store.graphs / key.folder)), Entry):
            return None
        raise


def _hold(store: Store, held: ExitStack, entry: Entry) -> None:
    try:
        held.enter_context(shared(entry.folder))
        check(entry)
    except (Damage, InUse, OSError) as error:
        reason = "another process is removing it" if isinstance(error, InUse) else str(error)
        raise Refused(
            f"graph {entry.id} is not exported: {reason}", f"`ipa cache clear {entry.id}` removes it"
        ) from error


def _index(entries: Sequence[Entry]) -> bytes:
    return keys.canonical(
        {"schema_version": ARCHIVE_SCHEMA, "graphs": [entry.key.folder for entry in entries]}
    ).encode()


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(_member(name, len(content)), io.BytesIO(content))


def _add_file(archive: tarfile.TarFile, name: str, path: Path) -> None:
    with path.open("rb") as source:
        archive.addfile(_member(name, os.fstat(source.fileno()).st_size), source)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600  # owner and time stay 0: the same graphs give the same bytes
    return member


def _unpack(store: Store, source: Any, folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every graph of the archive in a folder of its own below `folder`, checked. Raises Damage."""
    try:
        archive = tarfile.open(fileobj=source, mode="r:")  # noqa: SIM115 (closed below)
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise Damage("it is not an archive of graphs") from error
    room = shutil.disk_usage(folder).free
    if store.max_size is not None:
        room = min(room, store.max_size)
    with archive:
        members = _members(archive)
        names = _read_index(archive, next(members, None))
        graphs = []
        for number, name in enumerate(names):
            manifest = _read_manifest(archive, next(members, None), name)
            room -= sum(file["size"] for file in manifest["files"].values())
            if room < 0:
                raise Damage("it does not fit into the cache (--cache-max-size) or on the disk")
            path = folder / str(number)
            path.mkdir(mode=0o700)
            for _ in manifest["files"]:
                _extract(archive, next(members, None), name, manifest["files"], path)
            if hash_files(path) != manifest["files"]:
                raise Damage(f"the files of {name} have changed")
            graphs.append((path, manifest))
        if next(members, None) is not None:
            raise Damage("it contains more than its index lists")
    return graphs


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The archive's members in order; anything but a regular file is refused. Raises Damage."""
    position = -1
    while True:
        try:
            member = archive.next()
        except (tarfile.TarError, ValueError, OverflowError, EOFError, OSError, RecursionError) as error:
            raise Damage(f"it is cut off or garbled: {error}") from error
        if member is None:
            return
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
            raise Damage(f"{member.name!r} is not a regular file")
        if member.size < 0 or member.offset <= position:
            raise Damage("it is garbled")
        position = member.offset
        yield member


def _read_index(archive: tarfile.TarFile, member: tarfile.TarInfo | None) -> list[str]:
    if member is None or member.name != INDEX:
        raise Damage("it is not an archive of graphs")
    try:
        index = json.loads(_content(archive, member))
    except (ValueError, RecursionError):
        raise Damage("its index is not JSON") from None
    if not isinstance(index, dict) or index.get("schema_version") != ARCHIVE_SCHEMA:
        raise Damage(f"its index is not of schema {ARCHIVE_SCHEMA}")
    names = index.get("graphs")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Damage("its index names no graphs")
    if len(set(names)) != len(names):
        raise Damage("its index names a graph twice")
    return names


def _read_manifest(archive: tarfile.TarFile, member: tarfile.TarInfo | None, name: str) -> dict[str, Any]:
    if member is None or member.name != f"{name}/{MANIFEST}":
        raise Damage(f"{name!r} has no manifest")
    try:
        return manifest_of(name, _content(archive, member))
    except Damage as damage:
        raise Damage(f"{name!r}: {damage}") from None


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_MANIFEST:
        raise Damage(f"{member.name!r} is too large")
    reader = archive.extractfile(member)
    content = b""
    with suppress(tarfile.ReadError):  # cut off: the size tells
        content = reader.read() if reader else b""
    if len(content) != member.size:
        raise Damage(f"{member.name!r} is cut off")
    return content


def _extract(
    archive: tarfile.TarFile, member: tarfile.TarInfo | None, graph: str, files: dict[str, Any], folder: Path
) -> None:
    """Write one file of a graph below `folder`; its name is one of the manifest's, which are safe."""
    if member is None:
        raise Damage(f"files of {graph!r} are missing")
    name = member.name[len(graph) + 1 :] if member.name.startswith(f"{graph}/") else None
    if name not in files:
        raise Damage(f"{member.name!r} is not in the manifest")
    if member.size != files[name]["size"]:
        raise Damage(f"{member.name!r} has {member.size} bytes, not {files[name]['size']}")
    path = folder / name
    try:
        make_folders(folder, Path(name).parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except (FileExistsError, NotADirectoryError):
        raise Damage(f"{member.name!r} is in it twice") from None
    reader = archive.extractfile(member)
    with os.fdopen(descriptor, "wb") as target:
        with suppress(tarfile.ReadError):  # cut off: the size tells
            shutil.copyfileobj(reader, target, _CHUNK)  # type: ignore[arg-type]
        if target.tell() != member.size:
            raise Damage(f"{member.name!r} is cut off")
