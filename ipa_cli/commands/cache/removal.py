"""`ipa cache clear`: remove graphs, and what killed processes left behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa_cli.commands import options
from ipa_cli.commands.cache import shared
from ipa_cli.config import units
from ipa_cli.errors import UsageError
from ipa_cli.result import Result

if TYPE_CHECKING:
    from ipa_cli.cache import Item, ScratchFolder
    from ipa_cli.engine.tuned import TuningFile


@options.with_settings("cache_dir")
def clear(
    context: typer.Context,
    key: shared.Keys = None,
    backend: shared.OfBackend = None,
    stale: Annotated[bool, options.flag("--stale", help="only graphs that cannot be used on this machine")] = False,
    older_than: Annotated[
        str | None, options.flag("--older-than", help="only graphs not used for this long, such as 30d", metavar="AGE")
    ] = None,
    max_size: Annotated[
        str | None,
        options.flag(
            "--max-size", help="only the least recently used graphs, until the rest is below this size", metavar="SIZE"
        ),
    ] = None,
    dry_run: Annotated[bool, options.flag("--dry-run", help="show what would be removed, and remove nothing")] = False,
    yes: shared.Yes = False,
) -> Result:
    """Remove compiled graphs, all or those that meet every condition given, and what killed processes left behind.

    What `ipa bench --tune` kept goes too: all without conditions, a backend's with --backend, damaged with --stale.
    """
    from ipa_cli import cache
    from ipa_cli.engine import inventory, tuned
    from ipa_cli.hardware import probe

    store = shared.store(context)
    seconds = _parsed("--older-than", older_than, units.parse_age)
    limit = _parsed("--max-size", max_size, units.parse_size)
    items = cache.scan(store)
    shared.check_backend(backend, (item.backend for item in items))
    reasons = inventory.stale_reasons(probe.machine()) if stale else None
    chosen = cache.plan(
        items,
        prefixes=key or (),
        wanted=lambda item: backend in (None, item.backend) and (reasons is None or bool(reasons(item))),
        used_before=None if seconds is None else time.time() - seconds,
        max_size=limit,
    )
    narrowed = bool(key) or seconds is not None or limit is not None
    tunings = [
        one
        for one in ([] if narrowed else tuned.listed(store))
        if backend in (None, one.backend) and (one.damage or not stale)
    ]
    lines = (*map(inventory.summary_line, chosen.items), *(inventory.printable(str(one.path)) for one in tunings))
    left = [work for work in cache.scratch_folders(store) if not work.alive]

    def data(graphs: Sequence[Item], rest: int, kept: Sequence[tuple[Item, str]] = ()) -> dict[str, Any]:
        return {
            "dry_run": dry_run,
            "freed": sum(one.size for one in (*graphs, *tunings)) + rest,
            "graphs": [item.id for item in graphs],
            "tuning": [str(one.path) for one in tunings],
            "kept": [{"key": item.id, "reason": reason} for item, reason in kept],
        }

    if dry_run or not lines:
        rest = sum(work.size for work in left) if dry_run or not left else cache.sweep(store)
        would = "would remove" if dry_run else "removed"
        summary = f"{would} {_all(chosen.items, tunings, left)}" if lines or left else "nothing to remove"
        return Result("cache clear", data(chosen.items, rest), (*lines, summary))
    statement = f"this removes {_all(chosen.items, tunings, left)}"
    details = (*lines[:20], *shared.more(len(lines) - 20))
    if not shared.agreed(context, yes, details, statement, "add --yes, or look first with --dry-run"):
        return shared.nothing_done("cache clear")
    rest = cache.sweep(store)
    done = cache.execute(store, chosen)
    for item, reason in done.kept:
        context.obj.warn(f"graph {item.id[:8]} stays: {reason}")
    tuned.remove(tunings)
    return Result("cache clear", data(done.items, rest, done.kept), (f"removed {_all(done.items, tunings, left)}",))


def _parsed(name: str, text: str | None, parse: Callable[[str], int]) -> int | None:
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}", "`ipa cache clear --help` tells more") from None


def _all(items: Sequence[Item], tunings: Sequence[TuningFile], left: Sequence[ScratchFolder]) -> str:
    graphs = f"{shared.count(items)}, {_size(items)}" if items or not (tunings or left) else ""
    tuning = f"{units.plural(len(tunings), 'tuning file')}, {_size(tunings)}" if tunings else ""
    rest = f"{_size(left)} left behind by killed processes" if left else ""
    return ", and ".join(filter(None, (graphs, tuning, rest)))


def _size(what: Iterable[Item | TuningFile | ScratchFolder]) -> str:
    return units.size(sum(one.size for one in what))
