"""Fetch a graph from a remote cache into the store: whole, checked, signed by somebody trusted, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ipa_cli.cache import ed25519, publishers, signature
from ipa_cli.cache.building import find_intact, hash_files, publish
from ipa_cli.cache.entries import Entry, Refused, Store
from ipa_cli.cache.entries import read as read_entry
from ipa_cli.cache.locks import key_lock
from ipa_cli.cache.manifest import PUBLISHER
from ipa_cli.cache.remote.location import Remote
from ipa_cli.cache.remote.offers import Offer, blob
from ipa_cli.cache.removal import Removed, evict
from ipa_cli.cache.scratch import (
    is_disk_full,
    make_folders,
    partial_folder,
    prepare,
    remove,
    scratch_folder,
    translate_disk_errors,
)
from ipa_cli.cache.trust import check_owner
from ipa_cli.system import files

Doing = Callable[[str], None]


@dataclass(frozen=True)
class Pulled:
    """A whole entry: `fresh` when this call fetched it, `received` bytes; `evicted` what had to go for it."""

    entry: Entry
    fresh: bool
    received: int
    evicted: Removed = Removed((), ())


def check_signed(remote: Remote, offer: Offer, allow_unsigned: bool) -> None:
    """Raise Refused unless somebody trusted has signed a graph, or nobody need have."""
    problem = None if allow_unsigned else publishers.problem(offer.signatures, publishers.trusted())
    if problem is not None:
        hint = f"`ipa cache trust {offer.signatures[0].key}`" if offer.signatures else "have its maker sign it"
        raise Refused(
            f"graph {offer.id} of {remote.url} is refused: {problem}", f"{hint}, or `ipa cache pull --allow-unsigned`"
        )


def pull(store: Store, remote: Remote, offer: Offer, allow_unsigned: bool, doing: Doing) -> Pulled:
    """The entry of a graph, fetched from `remote` unless it is there already; one process at a time fetches it.

    With `allow_unsigned` its maker need not be known, and it is signed with this user's key. What has arrived is kept
    when the connection breaks, and fetched no second time. Raises Refused when it is not trusted, does not fit or is
    not what its manifest says, RemoteError when it does not arrive, StoreError when it cannot be kept.
    """
    check_owner(store, store.graphs / offer.name)
    check_signed(remote, offer, allow_unsigned)
    with translate_disk_errors(store):
        prepare(store)
        with key_lock(store, offer.key.short, waiting=lambda: doing("another process is fetching this graph")):
            if (there := present(store, offer)) is not None:
                return Pulled(there, fresh=False, received=0)
            _check_room(store, offer)
            partly = partial_folder(store, f"{offer.id}-{hashlib.sha256(offer.text).hexdigest()[:16]}")
            try:
                received = _receive(remote, offer, partly, doing)
                entry = _publish(store, remote, offer, partly, allow_unsigned)
            except OSError as error:
                if is_disk_full(error):
                    remove(partly)
                raise
            except Refused:
                remove(partly)
                raise
            remove(partly)
        return Pulled(entry, True, received, evict(store, keep={entry.folder}))


def present(store: Store, offer: Offer) -> Entry | None:
    """The intact graph that is there already and trusted; one that is not is replaced."""
    try:
        return find_intact(store, offer.key)
    except Refused:
        if isinstance(read_entry(str(store.graphs / offer.name)), Entry):
            return None
        raise


def _check_room(store: Store, offer: Offer) -> None:
    room = shutil.disk_usage(store.root).free
    room = room if store.max_size is None else min(room, store.max_size)
    if offer.size > room:
        raise Refused(
            f"graph {offer.id} has {offer.size / 1e6:.0f} MB and does not fit into the cache or on its disk",
            "free some space, or raise --cache-max-size",
        )


def _receive(remote: Remote, offer: Offer, partly: Path, doing: Doing) -> int:
    """Fetch what is missing of the files into `partly`, numbered in the order of their names; how many bytes came."""
    received, total = 0, offer.size

    for number, (name, file) in enumerate(sorted(offer.manifest["files"].items())):
        path = partly / str(number)
        if files.kind(path) is not None:  # in a cache that came with a repository
            remove(path)
        with files.appending(path) as target:

            def write(part: bytes, target=target) -> None:
                nonlocal received
                target.write(part)
                received += len(part)
                doing(f"{offer.id[:8]}, {received / 1e6:.0f} of {total / 1e6:.0f} MB")

            have = target.tell()
            if have > file["size"]:
                have = target.truncate(0)
            try:
                if have < file["size"]:
                    remote.fetch(blob(file["sha256"]), file["size"], have, write, partial(target.truncate, 0))
            except FileNotFoundError:
                raise _wrong(offer, remote, f"{name} is missing") from None
            except EOFError as error:
                raise _wrong(offer, remote, f"{name} has {error}, not {file['size']}") from None
    return received


def _publish(store: Store, remote: Remote, offer: Offer, partly: Path, allow_unsigned: bool) -> Entry:
    wanted = offer.manifest["files"]
    with scratch_folder(store) as folder:
        for number, name in enumerate(sorted(wanted)):
            make_folders(folder, Path(name).parent)
            os.rename(partly / str(number), folder / name)  # noqa: PTH104 (Path.rename follows no more)
        have = hash_files(folder)
        if changed := [name for name in wanted if have.get(name) != wanted[name]]:
            raise _wrong(offer, remote, f"{changed[0]} has changed")
        return publish(store, folder, offer.manifest, partial(_sign, offer, allow_unsigned))


def _sign(offer: Offer, allow_unsigned: bool, folder: Path, text: bytes) -> None:
    if text != offer.text:
        raise AssertionError("a manifest that was checked is rendered the same")
    if offer.signatures:
        files.write_private(folder / PUBLISHER, ed25519.render(offer.signatures))
    if allow_unsigned:
        signature.add(folder, text, signature.signing_key())


def _wrong(offer: Offer, remote: Remote, what: str) -> Refused:
    return Refused(
        f"graph {offer.id} of {remote.url} is refused: {what}",
        "have its maker send it again with `ipa cache push --force`",
    )
