"""`ipa cache ls`, `dir` and `verify`: what is in the cache, where, and whether it is intact."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa_cli.commands import options
from ipa_cli.commands.cache import shared
from ipa_cli.config import units
from ipa_cli.errors import IpaError
from ipa_cli.result import Result, Table

if TYPE_CHECKING:
    from ipa_cli.cache import ScratchFolder


class Order(str, Enum):
    """Sort keys of `ipa cache ls`; dates and numbers are sorted in descending order."""

    used = "used"
    created = "created"
    size = "size"
    hits = "hits"
    backend = "backend"
    model = "model"
    gpu = "gpu"


_ORDERS: dict[Order, Callable[[dict[str, Any]], Any]] = {
    Order.used: lambda graph: graph["last_used"],
    Order.created: lambda graph: graph["created"] or "",
    Order.size: lambda graph: graph["size"],
    Order.hits: lambda graph: graph["hits"],
    Order.backend: lambda graph: graph["backend"],
    Order.model: lambda graph: graph["model"] or "",
    Order.gpu: lambda graph: graph["gpu"],
}
_DOWN = {Order.used, Order.created, Order.size, Order.hits}


@options.with_settings("cache_dir")
def list_graphs(
    context: typer.Context,
    sort: Annotated[
        Order, options.flag("--sort", metavar="ORDER", help=f"sort by {', '.join(Order)} [default: used]")
    ] = Order.used,
    backend: shared.OfBackend = None,
    stale: Annotated[bool, options.flag("--stale", help="only graphs that cannot be used on this machine")] = False,
) -> Result:
    """List compiled graphs: their shape, size and use, and whether they can be used here.

    The shape 256x256-b2 means 256x256 pixels and batch 2: two pictures, or one with guidance.
    """
    from ipa_cli import cache
    from ipa_cli.engine import inventory, tuned
    from ipa_cli.hardware import probe

    store = shared.store(context)
    stale_for, blocking_for = inventory.stale_reasons(probe.machine()), inventory.blocking_reasons()
    everything = [inventory.to_json(item, stale_for(item), blocking_for(item)) for item in cache.iter_entries(store)]
    shared.check_backend(backend, (one["backend"] for one in everything))
    gc.freeze()  # all of it is kept to the end, so the garbage collector need not look at it
    graphs = [one for one in everything if backend in (None, one["backend"]) and (one["stale"] or not stale)]
    graphs.sort(key=lambda graph: graph["key"])
    graphs.sort(key=_ORDERS[sort], reverse=sort in _DOWN)
    total = sum(graph["size"] for graph in graphs)
    others, tunings = cache.scratch_folders(store), tuned.listed(store)
    data = {
        "cache_dir": str(store.root),
        "max_size": store.max_size,
        "size": total,
        "unfinished": {
            "in_use": sum(work.size for work in others if work.alive),
            "left_behind": sum(work.size for work in others if not work.alive),
        },
        "tuning": [tuning.to_json() for tuning in tunings],
        "graphs": graphs,
    }
    if context.obj.json_mode:
        return Result("cache ls", data)
    more = (*_unfinished(others), *map(str, tunings))
    if not graphs:
        which = "matching graph" if everything else "compiled graph"
        return Result("cache ls", data, (f"no {which} in {store.root}", *more))
    now = time.time()
    rows = [inventory.table_row(graph, now) for graph in graphs]
    narrow = Table(("key", "graph", "usable here"), tuple(map(inventory.narrow_row, rows)))
    summary = f"{shared.count(graphs)}, {units.size(total)}"
    return Result("cache ls", data, (Table(inventory.COLUMNS, tuple(rows), narrow=narrow), summary, *more))


@options.with_settings("cache_dir")
def show_folder(context: typer.Context) -> Result:
    """Print the folder of compiled graphs."""
    store = shared.store(context)
    there = os.path.isdir(store.root)  # noqa: PTH112 (Path.is_dir raises where this user may not look)
    return Result("cache dir", {"cache_dir": str(store.root), "exists": there}, (str(store.root),))


@options.with_settings("cache_dir")
def verify(
    context: typer.Context,
    key: shared.Keys = None,
) -> Result:
    """Compare every byte of the graphs with what was built. Exit status 1 if one is damaged."""
    from ipa_cli import cache
    from ipa_cli.engine import inventory

    store = shared.store(context)
    cache.check_owner(store)
    items, problems = [], {}
    with context.obj.stage("checking"):
        for item in cache.plan(cache.scan(store), prefixes=key or ()).items:
            try:
                problem = cache.verify(item)
            except (FileNotFoundError, cache.InUse):  # another process is removing it
                continue
            items.append(item)
            problems.update({item.id: problem} if problem else {})
    for item in items:
        if isinstance(item, cache.UnreadableGraph):
            context.obj.note(f"graph {item.id[:8]} is not checked: {item.reason}")
    graphs = [{"key": item.id, "size": item.size, "problem": problems.get(item.id)} for item in items]
    data = {"cache_dir": str(store.root), "checked": len(items), "damaged": len(problems), "graphs": graphs}
    lines = [f"{id[:8]}: {inventory.printable(problem)}" for id, problem in problems.items()]
    lines.append(
        f"checked {shared.count(items)}, {units.size(sum(item.size for item in items))}: {len(problems)} damaged"
    )
    if problems:
        lines.append(f"`ipa cache clear {' '.join(id[:8] for id in problems)}` removes what is damaged")
    failure = IpaError(f"{shared.count(problems)} damaged", lines[-1]) if problems else None
    return Result("cache verify", data, tuple(lines), failure)


def _unfinished(found: Iterable[ScratchFolder]) -> Iterator[str]:
    """Lines about unfinished work in the cache."""
    used, left = (sum(work.size for work in found if work.alive is alive) for alive in (True, False))
    if used:
        yield f"{units.size(used)} in use by running processes"
    if left:
        yield f"{units.size(left)} left behind by killed processes; `ipa cache clear` or the next run removes it"
