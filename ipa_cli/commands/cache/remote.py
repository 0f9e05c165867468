"""`ipa cache push` and `pull`: graphs in a folder or an object store that machines share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa_cli.commands import options
from ipa_cli.commands.cache import shared
from ipa_cli.config import units
from ipa_cli.config.checks import short
from ipa_cli.config.remote import absolute, problem
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.result import Result

if TYPE_CHECKING:
    from ipa_cli.cache.remote import Offer, Remote

URL = Annotated[
    str, typer.Argument(metavar="URL", help="The shared cache: s3://bucket/graphs, gs://…, https://… or a folder.")
]
Unsigned = Annotated[
    bool,
    options.flag("--allow-unsigned", help="also graphs that nobody signed whom you trust: their maker acts as you"),
]


@options.with_settings("cache_dir", "cache_signing_key")
def push(
    context: typer.Context,
    url: URL,
    key: shared.Keys = None,
    allow_unsigned: Annotated[
        bool, options.flag("--allow-unsigned", help="send graphs without a signature where there is no key")
    ] = False,
    force: Annotated[bool, options.flag("--force", "-f", help="send again what is there")] = False,
) -> Result:
    """Send graphs, all that are trusted here unless named, to a shared cache; what is not signed yet is signed."""
    from ipa_cli import cache
    from ipa_cli.cache import publishers, remote

    started = time.perf_counter()
    location, store = _location(url), shared.store(context)
    private = publishers.private_key(options.settings(context).settings.cache_signing_key)
    items = cache.plan(cache.scan(store), prefixes=key or ()).items
    if not items:
        raise IpaError(f"there is no graph in {store.root} to send", "`ipa compile` makes one")
    done: list[remote.Pushed] = []
    refused: list[dict[str, str]] = []
    with context.obj.stage(f"sending to {url}") as doing:
        for item in items:
            try:
                if not isinstance(item, cache.Entry):
                    raise cache.Refused(f"graph {item.id} is left out: {item.reason}", "")
                done.append(remote.push(location, item, private, allow_unsigned, force, doing))
            except cache.Refused as error:
                refused.append(_refused(context, item.id, error))
        if any(one.fresh for one in done):
            remote.write_index(location)
    for one in done:
        if one.note:
            context.obj.warn(f"graph {one.entry.id[:8]}: {one.note}")
    sent, kept = ([one for one in done if one.fresh is fresh] for fresh in (True, False))
    count = sum(one.sent for one in sent)
    data = {
        "url": url,
        "pushed": [one.entry.id for one in sent],
        "kept": [one.entry.id for one in kept],
        "refused": refused,
        "sent": count,
        "seconds": round(time.perf_counter() - started, 3),
    }
    there = f", {len(kept)} already there" if kept else ""
    lines = (f"sent {shared.count(sent)} to {url}, {units.size(count)}{there}", *_refusals(refused))
    return Result("cache push", data, lines, _failure(refused))


@options.with_settings("cache_dir", "cache_max_size")
def pull(
    context: typer.Context,
    url: URL,
    key: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY]...", help="Keys of graphs, or their first digits; all that suit this machine."),
    ] = None,
    everything: Annotated[bool, options.flag("--all", help="also graphs that cannot be used on this machine")] = False,
    dry_run: Annotated[bool, options.flag("--dry-run", help="show what would be fetched, and fetch nothing")] = False,
    allow_unsigned: Unsigned = False,
) -> Result:
    """Fetch graphs from a shared cache: those that suit this machine and are signed with a key that you trust."""
    from ipa_cli import cache
    from ipa_cli.cache import remote
    from ipa_cli.engine import sharing

    started = time.perf_counter()
    location, store = _location(url), shared.store(context)
    with context.obj.stage(f"looking in {url}") as doing:
        chosen = sharing.choose(location, key or (), everything, doing, context.obj)
    refused = [*chosen.refused]
    done: list[remote.Pulled] = []
    here: list[str] = []
    would: list[Offer] = []
    with context.obj.stage(f"fetching from {url}") as doing:
        for offer in chosen.wanted:
            try:
                remote.check_signed(location, offer, allow_unsigned)
                if remote.present(store, offer) is not None:
                    here.append(offer.id)
                elif dry_run:
                    would.append(offer)
                else:
                    done.append(remote.pull(store, location, offer, allow_unsigned, doing))
            except cache.Refused as error:
                refused.append(_refused(context, offer.id, error))
    for item in (item for one in done for item in one.evicted.items):
        context.obj.note(f"graph {item.id[:8]} was removed to stay below {units.size(store.max_size or 0)}")
    here += [one.entry.id for one in done if not one.fresh]  # another process fetched it meanwhile
    fetched = [offer.id for offer in would] + [one.entry.id for one in done if one.fresh]
    size = sum(offer.size for offer in would) + sum(one.received for one in done)
    data = {
        "url": url,
        "dry_run": dry_run,
        "pulled": fetched,
        "kept": here,
        "skipped": chosen.skipped,
        "refused": refused,
        "evicted": [item.id for one in done for item in one.evicted.items],
        "received": size,
        "seconds": round(time.perf_counter() - started, 3),
    }
    parts = (
        f"{'would fetch' if dry_run else 'fetched'} {shared.count(fetched)}, {units.size(size)}",
        f"{len(here)} already here" if here else "",
        f"{len(chosen.skipped)} not for this machine (--all)" if chosen.skipped else "",
    )
    return Result("cache pull", data, (", ".join(filter(None, parts)), *_refusals(refused)), _failure(refused))


def _location(url: str) -> Remote:
    from ipa_cli.cache import remote

    plain = absolute(url)
    if (wrong := problem(plain)) is not None:
        raise UsageError(f"URL '{short(url)}': {wrong}", "`ipa cache push --help` tells more")
    return remote.at(plain)


def _refused(context: typer.Context, id: str, error: IpaError) -> dict[str, str]:
    context.obj.warn("; ".join(filter(None, (error.message, error.hint))))
    return {"key": id, "reason": error.message, "hint": error.hint}


def _failure(refused: Sequence[dict[str, str]]) -> IpaError | None:
    if not refused:
        return None
    return IpaError(f"{shared.count(refused)} refused, the first: {refused[0]['reason']}", refused[0].get("hint", ""))


def _refusals(refused: Sequence[Any]) -> tuple[str, ...]:
    return (f"refused {shared.count(refused)}",) if refused else ()
