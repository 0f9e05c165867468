"""Removing graphs: a plan with its size, its execution, and eviction above the size limit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ipa_cli.cache.entries import Entry, Item, Store, read, scan
from ipa_cli.cache.locks import InUse, exclusive, key_lock
from ipa_cli.cache.scratch import scratch_folders, sweep, translate_disk_errors, trash
from ipa_cli.errors import IpaError


@dataclass(frozen=True)
class Plan:
    """What would be removed; `size` in bytes."""

    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)


@dataclass(frozen=True)
class Removed:
    """What was removed, and what was kept with the reason."""

    items: tuple[Item, ...]
    kept: tuple[tuple[Item, str], ...]

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)


def find(items: Iterable[Item], prefix: str) -> Item:
    """The one graph whose digest begins with `prefix`. Raises UsageError for none or several."""
    prefix = prefix.lower()
    found = [item for item in items if prefix and _digest(item).startswith(prefix)]
    if not found:
        raise IpaError(f"no graph in the cache begins with {prefix!r}", "`ipa cache ls` shows the keys")
    if len(found) > 1:
        ids = ", ".join(sorted(item.id for item in found)[:4])
        raise IpaError(f"{len(found)} graphs begin with {prefix!r}: {ids}", "type more digits of the key")
    return found[0]


def _digest(item: Item) -> str:
    return item.digest if isinstance(item, Entry) else item.id


def plan(
    items: Sequence[Item],
    *,
    prefixes: Sequence[str] = (),
    wanted: Callable[[Item], bool] = lambda item: True,
    used_before: float | None = None,
    max_size: int | None = None,
) -> Plan:
    """Choose what to remove of `items`, all of a store; each condition narrows the choice.

    `prefixes` of digests, a condition `wanted`, last use before a time (seconds since 1970); with `max_size`, of these
    only as many as bring the whole store below so many bytes, broken ones first, then the least recently used.
    Raises UsageError for a prefix of none or several.
    """
    chosen = {find(items, prefix).folder for prefix in prefixes}
    order = sorted(
        (
            item
            for item in items
            if (not prefixes or item.folder in chosen)
            and wanted(item)
            and (used_before is None or item.last_used < used_before)
        ),
        key=lambda item: (isinstance(item, Entry), item.last_used, item.folder),
    )
    if max_size is None:
        return Plan(tuple(order))
    total, going = sum(item.size for item in items), []
    for item in order:
        if total <= max_size:
            break
        total -= item.size
        going.append(item)
    return Plan(tuple(going))


def execute(store: Store, plan: Plan) -> Removed:
    """Remove what the plan names, as it was when planned; what is in use or was rebuilt since stays.

    Raises StoreError when the store cannot be written.
    """
    gone: list[Item] = []
    kept: list[tuple[Item, str]] = []
    with translate_disk_errors(store):
        sweep(store)
        for item in plan.items:
            try:
                with key_lock(store, item.id, wait=False):
                    if _same(item, read(item.path)):
                        _take_out(store, item)
                        gone.append(item)
                    else:
                        kept.append((item, "rebuilt or removed meanwhile"))
            except InUse:
                kept.append((item, "in use"))
    return Removed(tuple(gone), tuple(kept))


def evict(store: Store, keep: Collection[Path]) -> Removed:
    """Bring the store below its size limit, least recently used graphs first, without touching `keep`."""
    if store.max_size is None:
        return Removed((), ())
    room = store.max_size - sum(found.size for found in scratch_folders(store))
    chosen = plan(scan(store), wanted=lambda item: item.folder not in keep, max_size=room)
    return execute(store, chosen) if chosen.items else Removed((), ())


def _same(planned: Item, now: Item | None) -> bool:
    if isinstance(planned, Entry):
        return isinstance(now, Entry) and now.stamp == planned.stamp
    return now is not None and not isinstance(now, Entry)


def _take_out(store: Store, item: Item) -> None:
    if isinstance(item, Entry):
        with exclusive(item.folder):
            trash(store, item.folder)
    else:  # a broken one is never in use
        trash(store, item.folder)
