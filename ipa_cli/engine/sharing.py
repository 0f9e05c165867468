"""Graphs in a remote cache: which suit this machine, one fetched before it is compiled, and new ones sent there.

While pictures are drawn a remote cache that is down only warns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ipa_cli import backends
from ipa_cli.cache import Entry, Refused, Store, StoreError, keys, publishers, remote
from ipa_cli.cache.keys import GraphKey
from ipa_cli.cache.manifest import Damage
from ipa_cli.cache.remote import Offer, Remote
from ipa_cli.config import units
from ipa_cli.engine import inventory
from ipa_cli.errors import IpaError
from ipa_cli.hardware import probe
from ipa_cli.hardware.probe import Machine
from ipa_cli.result import Reporter

LOOKING = 20.0  # seconds for looking through manifests before it is compiled


@dataclass(frozen=True)
class Choice:
    """Graphs of a remote cache: those to fetch, and by key those for other machines and those not as they were sent."""

    wanted: Sequence[Offer]
    skipped: Sequence[Mapping[str, Any]]
    refused: Sequence[dict[str, str]]


def choose(
    location: Remote, prefixes: Sequence[str], everything: bool, doing: Callable[[str], None], reporter: Reporter
) -> Choice:
    """The graphs of a remote cache whose keys begin with `prefixes`, or all.

    With `everything` those for other machines count too. `doing` gets how many manifests have been looked at, of how
    many. What is refused is warned of. Raises IpaError where there are none, RemoteError.
    """
    names = remote.names(location)
    if not names:
        raise IpaError(f"there are no graphs in {location.url}", "check the address; `ipa cache push URL` sends some")
    if prefixes:
        names = [remote.find(names, prefix) for prefix in prefixes]
    here = inventory.with_versions(probe.machine())
    wanted: list[Offer] = []
    skipped: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    names = list(dict.fromkeys(names))
    others = {} if everything else {name: why for name in names if (why := _of_another_gpu(name, here))}
    offers = remote.read_ahead(location, (name for name in names if name not in others))
    for number, name in enumerate(names, 1):
        doing(f"{number} of {units.plural(len(names), 'graph')}")
        if name in others:
            skipped.append({"key": remote.id_of(name), "reasons": others[name]})
            continue
        try:
            offer = next(offers).result()
        except Damage as damage:
            refused.append({"key": remote.id_of(name), "reason": str(damage)})
            reporter.warn(f"graph {remote.id_of(name)} of {location.url} is refused: {damage}")
            continue
        if offer is None:  # it has gone since it was listed, or the index is old
            if prefixes:
                reason = "it is not there any more"
                refused.append({"key": remote.id_of(name), "reason": reason})
                reporter.warn(f"graph {remote.id_of(name)} of {location.url}: {reason}")
            continue
        if not everything and (reasons := _differences(offer, here)):
            skipped.append({"key": offer.id, "reasons": reasons})
            reporter.detail(f"graph {offer.id[:8]} is not for this machine: {', '.join(reasons)}")
        else:
            wanted.append(offer)
    return Choice(wanted, skipped, refused)


def _of_another_gpu(name: str, here: Machine) -> list[str]:
    """Why the graph of this name is not for this machine, without a look at its manifest; nothing when it may be."""
    gpu, own = name.split("/")[1], here.gpu.slug if here.gpu else probe.NONE
    return [] if gpu in (probe.CPU, own) else [keys.describe_change("gpu", gpu, own)]


def _differences(offer: Offer, here: Machine) -> list[str]:
    """Why a graph cannot be used on this machine; nothing when it can."""
    return inventory.differences(offer.key.gpu, offer.factors, here, backends.code(offer.backend))


def fetch(store: Store, own: GraphKey, fits: Callable[[Offer], bool] | None, reporter: Reporter) -> Entry | None:
    """The graph of `own` from the remote cache, else the best of those that `fits`; None when it has none.

    Without `fits` no other will do. What is refused is warned of, and so is a cache that fails, which is then not asked
    for a minute.
    """
    location = _location(store)
    if location is None:
        return None
    started = time.perf_counter()
    try:
        with reporter.stage(f"looking in {location.url}") as doing:
            offer = _offer(location, own, fits, reporter)
            if offer is None:
                reporter.detail(f"{location.url} has no such graph")
                return None
            pulled = remote.pull(store, location, offer, allow_unsigned=False, doing=lambda at: doing(f"pulling {at}"))
    except StoreError as error:
        if isinstance(error, remote.RemoteError):
            location.rest()
        reporter.warn(f"{error.message}; {error.hint}")
        return None
    seconds = time.perf_counter() - started
    reporter.note(f"graph {offer.id[:8]} came from {location.url}, {units.size(pulled.received)} in {seconds:.1f} s")
    return pulled.entry


def send(store: Store, entry: Entry, reporter: Reporter) -> None:
    """Push a graph just compiled, where the settings say so; what prevents it is warned of."""
    location = _location(store)
    if location is None or store.sharing is None or not store.sharing.push:
        return
    try:
        private = publishers.private_key(store.sharing.signing_key)
        with reporter.stage(f"sending to {location.url}") as doing:
            pushed = remote.push(location, entry, private, allow_unsigned=False, force=False, doing=doing)
            if pushed.fresh:
                remote.write_index(location)
    except StoreError as error:
        if isinstance(error, remote.RemoteError):
            location.rest()
        reporter.warn(f"{error.message}; {error.hint}")
        return
    reporter.note(f"graph {entry.id[:8]} is in {location.url}{f': {pushed.note}' if pushed.note else ''}")


def _location(store: Store) -> Remote | None:
    if store.sharing is None:
        return None
    location = remote.at(store.sharing.url)
    return None if location.rests else location


def _offer(location: Remote, own: GraphKey, fits: Callable[[Offer], bool] | None, reporter: Reporter) -> Offer | None:
    """The graph of `own`, else that which took longest to compile of those that fit and are trusted."""
    read = partial(remote.read, location, own.folder)
    if (exact := _acceptable(location, own.folder, read, reporter)) is not None:
        return exact
    if fits is None or not location.writable:  # one that cannot list may have no index
        return None
    ends = time.monotonic() + LOOKING
    found: list[Offer] = []
    names = remote.names(location, f"{own.backend}/{own.gpu}")
    for name, offered in zip(names, remote.read_ahead(location, names), strict=True):
        if time.monotonic() > ends:
            reporter.warn(f"{location.url} has more graphs than could be looked at within {LOOKING:g} s")
            break
        offer = _acceptable(location, name, offered.result, reporter, only=fits)
        if offer is not None:
            found.append(offer)
    return max(found, key=lambda offer: offer.build_seconds, default=None)


def _acceptable(
    location: Remote,
    name: str,
    read: Callable[[], Offer | None],
    reporter: Reporter,
    only: Callable[[Any], bool] = bool,
) -> Offer | None:
    """A graph that is there, wanted and signed by somebody trusted; others are warned of."""
    try:
        offer = read()
    except Damage as damage:
        reporter.warn(f"graph {remote.id_of(name)} of {location.url} is refused: {damage}")
        return None
    if offer is None or not only(offer):
        return None
    try:
        remote.check_signed(location, offer, allow_unsigned=False)
    except Refused as refused:
        reporter.warn(f"{refused.message}; {refused.hint}")
        return None
    return offer
