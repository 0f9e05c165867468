"""Send graphs to a remote cache: their files first, by digest, then the manifest with its signatures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipa_cli.cache import ed25519, publishers
from ipa_cli.cache.checking import check
from ipa_cli.cache.entries import Entry, Refused, Store
from ipa_cli.cache.locks import InUse, key_lock, shared
from ipa_cli.cache.manifest import PUBLISHER, Damage
from ipa_cli.cache.remote.location import Remote, RemoteError
from ipa_cli.cache.remote.offers import GRAPHS, INDEX, Offer, blob, names, read, render_index
from ipa_cli.cache.scratch import prepare, translate_disk_errors
from ipa_cli.cache.trust import check_owner, trust_problem
from ipa_cli.system import files

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_TRIES = 3


@dataclass(frozen=True)
class Pushed:
    """A graph on the remote: `fresh` when this call sent it, in `sent` bytes; `note` says what was found there."""

    entry: Entry
    fresh: bool
    sent: int
    note: str | None = None


def sign(store: Store, entry: Entry, private: Ed25519PrivateKey) -> bool:
    """Add a publisher's signature to a graph in the store; False when it has that one. Raises Refused."""
    check_owner(store, entry.folder)
    with translate_disk_errors(store), ExitStack() as held:
        prepare(store)
        held.enter_context(key_lock(store, entry.id))
        found = _checked(held, entry)
        if any(one.key == ed25519.public_key(private) for one in found):
            return False
        text = ed25519.render((*found, ed25519.sign(entry.text, private)))
        files.write_private(entry.folder / PUBLISHER, text)
        return True


def push(
    remote: Remote,
    entry: Entry,
    private: Ed25519PrivateKey | None,
    allow_unsigned: bool,
    force: bool,
    doing: Callable[[str], None],
) -> Pushed:
    """Send a graph, unless it is there; a graph without a publisher's signature is signed with `private`.

    What is there of its files is not sent again. The same graph gets the signatures that it lacks there; another one
    under its name is replaced only when it is damaged, or with `force`. Raises Refused when it is not trusted here or
    has no signature, RemoteError when it does not get through.
    """
    if not remote.writable:
        raise RemoteError(f"{remote.url} can only be read", "push to where its files come from, such as s3://…")
    with ExitStack() as held:
        signatures = _checked(held, entry)
        if not signatures and private is not None:
            signatures = (ed25519.sign(entry.text, private),)
        there, note = _there(remote, entry)
        same = there is not None and there.text == entry.text
        of_same = there.signatures if there is not None and same else ()
        added = same and {one.key for one in signatures} - {one.key for one in of_same}
        if there is not None and not added and not force:
            return Pushed(entry, False, 0, note)
        signatures = tuple({one.key: one for one in (*of_same, *signatures)}.values())
        if not signatures and not allow_unsigned:
            raise Refused(
                f"graph {entry.id} is not sent: there is no key to sign it with",
                "`ipa cache keygen` makes one; or add --allow-unsigned",
            )
        sent, total = 0, entry.size

        def advance(count: int) -> None:
            nonlocal sent
            sent += count
            doing(f"{entry.id[:8]}, {sent / 1e6:.0f} of {total / 1e6:.0f} MB")

        for name, file in entry.manifest["files"].items():
            path = blob(file["sha256"])
            if force or remote.size(path) != file["size"]:
                remote.send(path, entry.folder / name, advance)
        remote.write(f"{GRAPHS}/{entry.key.folder}.json", ed25519.render(signatures, entry.text))
        return Pushed(entry, True, sent, note if there is None else None)


def write_index(remote: Remote) -> None:
    """Write the names of all graphs for those who cannot list; again while others send graphs meanwhile."""
    for _ in range(_TRIES):
        found = names(remote)
        remote.write(INDEX, render_index(found))
        if names(remote) == found:
            return


def _there(remote: Remote, entry: Entry) -> tuple[Offer | None, str | None]:
    """The graph of this name that is there, and what is to be said of it; a damaged one is as good as none."""
    try:
        offer = read(remote, entry.key.folder)
    except Damage as damage:
        return None, f"replaced one that was there: {damage}"
    problem = publishers.problem(offer.signatures, publishers.trusted()) if offer is not None else None
    return offer, f"one is there, and {problem}; --force replaces it" if problem else None


def _checked(held: ExitStack, entry: Entry) -> tuple[ed25519.Signature, ...]:
    """The publishers' signatures of a graph that is trusted here and intact, which is kept while `held` lasts."""
    try:
        held.enter_context(shared(entry.folder))
        if (problem := trust_problem(entry)) is not None:
            raise Refused(f"graph {entry.id} is not trusted here: {problem.message}", problem.hint)
        check(entry)
        return publishers.signatures(entry)
    except (Damage, InUse, OSError) as error:
        reason = "another process is removing it" if isinstance(error, InUse) else str(error)
        raise Refused(f"graph {entry.id}: {reason}", f"`ipa cache clear {entry.id[:8]}` removes it") from error
