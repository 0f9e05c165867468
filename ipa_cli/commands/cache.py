"""`ipa cache`: look at, check, remove and carry compiled graphs; torch is never imported."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa_cli import config
from ipa_cli.commands import options
from ipa_cli.commands.base import App
from ipa_cli.config import units
from ipa_cli.errors import IpaError, UsageError, suggest
from ipa_cli.result import Result, Table

if TYPE_CHECKING:
    from ipa_cli.cache import Item, Store, Work

app = App(help="Look at, check and remove compiled graphs.")


class Order(str, Enum):
    """What `ipa cache ls` sorts by; dates and numbers count down."""

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


def _known(context: typer.Context, incomplete: str) -> list[str]:
    """Keys for a shell to complete from; none where the cache cannot be read."""
    from ipa_cli.cache import Store, each

    try:
        settings = config.resolve({"cache_dir": context.params.get("cache_dir")}).settings
        return [item.id[:8] for item in each(Store(config.cache_dir(settings))) if item.id.startswith(incomplete)]
    except IpaError:
        return []


Keys = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY]...", help="First digits of keys, as `ls` shows them.", autocompletion=_known),
]
OfBackend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        "-b",
        help="Only graphs of this backend.",
        autocompletion=options.completion(options.backends),
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("ls", example="ipa cache ls --sort size")
@options.with_settings("cache_dir")
def list_graphs(
    context: typer.Context,
    sort: Annotated[
        Order, typer.Option("--sort", metavar="ORDER", help=f"By what to sort: {', '.join(Order)}.")
    ] = Order.used,
    backend: OfBackend = None,
    stale: Annotated[bool, typer.Option("--stale", help="Only graphs of no use on this machine.")] = False,
) -> Result:
    """List compiled graphs: what they are for, their size and use, and whether they can be used here.

    The shape 256x256-b2 is for pictures of 256x256 pixels, two a call; one picture with guidance is two.
    """
    from ipa_cli import cache
    from ipa_cli.engine import inventory
    from ipa_cli.hardware import probe

    store = _store(context)
    stale_for, hindered_by = inventory.staleness(probe.machine()), inventory.hindrances()
    everything = [inventory.described(item, stale_for(item), hindered_by(item)) for item in cache.each(store)]
    _check_backend(backend, (one["backend"] for one in everything))
    gc.freeze()  # all of it stays to the end: the collector need not walk through it
    graphs = [one for one in everything if backend in (None, one["backend"]) and (one["stale"] or not stale)]
    graphs.sort(key=lambda graph: graph["key"])
    graphs.sort(key=_ORDERS[sort], reverse=sort in _DOWN)
    total = sum(graph["size"] for graph in graphs)
    others = cache.unfinished(store)
    data = {
        "cache_dir": str(store.root),
        "max_size": store.max_size,
        "size": total,
        "unfinished": {
            "in_use": sum(work.size for work in others if work.alive),
            "left_behind": sum(work.size for work in others if not work.alive),
        },
        "graphs": graphs,
    }
    if context.obj.json_mode:
        return Result("cache ls", data)
    more = _unfinished(others)
    if not graphs:
        which = "such graph" if everything else "compiled graph"
        return Result("cache ls", data, (f"no {which} in {store.root}", *more))
    now = time.time()
    rows = [inventory.row(graph, now) for graph in graphs]
    narrow = Table(("key", "graph", "usable here"), tuple(map(inventory.stacked, rows)))
    summary = f"{_count(graphs)}, {units.size(total)}"
    return Result("cache ls", data, (Table(inventory.COLUMNS, tuple(rows), narrow=narrow), summary, *more))


@app.command(example="ipa cache clear --stale --dry-run")
@options.with_settings("cache_dir")
def clear(
    context: typer.Context,
    key: Keys = None,
    backend: OfBackend = None,
    stale: Annotated[bool, typer.Option("--stale", help="Only graphs of no use on this machine.")] = False,
    older_than: Annotated[str | None, typer.Option(help="Only graphs not used for so long, such as 30d.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Only so many that the rest is smaller, such as 5GB.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: Yes = False,
) -> Result:
    """Remove compiled graphs: all, or those that every given condition holds for; and what killed processes left."""
    from ipa_cli import cache
    from ipa_cli.engine import inventory
    from ipa_cli.hardware import probe

    store = _store(context)
    seconds = _parsed("--older-than", older_than, units.parse_age)
    limit = _parsed("--max-size", max_size, units.parse_size)
    items = cache.scan(store)
    _check_backend(backend, (item.backend for item in items))
    reasons = inventory.staleness(probe.machine()) if stale else None
    chosen = cache.plan(
        items,
        prefixes=key or (),
        wanted=lambda item: backend in (None, item.backend) and (reasons is None or bool(reasons(item))),
        used_before=None if seconds is None else time.time() - seconds,
        max_size=limit,
    )
    lines = tuple(map(inventory.line, chosen.items))
    left = [work for work in cache.unfinished(store) if not work.alive]
    if dry_run or not chosen.items:
        rest = sum(work.size for work in left) if dry_run or not left else cache.sweep(store)
        data = {
            "dry_run": dry_run,
            "freed": chosen.size + rest,
            "graphs": [item.id for item in chosen.items],
            "kept": [],
        }
        would = "would remove" if dry_run else "removed"
        summary = f"{would} {_all(chosen.items, left)}" if lines or left else "nothing to remove"
        return Result("cache clear", data, (*lines, summary))
    statement = f"this removes {_all(chosen.items, left)}"
    details = (*lines[:20], *_more(len(lines) - 20))
    if not _agreed(context, yes, details, statement, "add --yes, or look first with --dry-run"):
        return _nothing_done("cache clear")
    rest = cache.sweep(store)
    done = cache.execute(store, chosen)
    for item, reason in done.kept:
        context.obj.warn(f"graph {item.id[:8]} stays: {reason}")
    data = {
        "dry_run": False,
        "freed": done.size + rest,
        "graphs": [item.id for item in done.items],
        "kept": [{"key": item.id, "reason": reason} for item, reason in done.kept],
    }
    return Result("cache clear", data, (f"removed {_all(done.items, left)}",))


@app.command("dir", example="ipa cache dir")
@options.with_settings("cache_dir")
def show_folder(
    context: typer.Context,
) -> Result:
    """Print the folder of compiled graphs."""
    store = _store(context)
    there = os.path.isdir(store.root)  # noqa: PTH112 (Path.is_dir raises where this user may not look)
    return Result("cache dir", {"cache_dir": str(store.root), "exists": there}, (str(store.root),))


@app.command(example="ipa cache verify")
@options.with_settings("cache_dir")
def verify(
    context: typer.Context,
    key: Keys = None,
) -> Result:
    """Read every byte of the graphs and compare it with what was built; exit status 1 when one is damaged."""
    from ipa_cli import cache
    from ipa_cli.engine import inventory

    store = _store(context)
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
        if isinstance(item, cache.Unread):
            context.obj.note(f"graph {item.id[:8]} is not checked: {item.reason}")
    graphs = [{"key": item.id, "size": item.size, "problem": problems.get(item.id)} for item in items]
    data = {"cache_dir": str(store.root), "checked": len(items), "damaged": len(problems), "graphs": graphs}
    lines = [f"{id[:8]}: {inventory.printable(problem)}" for id, problem in problems.items()]
    lines.append(f"checked {_count(items)}, {units.size(sum(item.size for item in items))}: {len(problems)} damaged")
    if problems:
        lines.append(f"`ipa cache clear {' '.join(id[:8] for id in problems)}` removes what is damaged")
    return Result("cache verify", data, tuple(lines), exit_code=1 if problems else 0)


@app.command("export", example="ipa cache export graphs.tar")
@options.with_settings("cache_dir")
def export_graphs(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write.")],
    key: Keys = None,
    force: options.Force = False,
) -> Result:
    """Write graphs into one archive, for a machine like this one."""
    from ipa_cli import cache

    options.check_not_stdout(file, "an archive", "graphs.tar")
    store = _store(context)
    items = cache.plan(cache.scan(store), prefixes=key or ()).items
    entries = [item for item in items if isinstance(item, cache.Entry)]
    for item in items:
        if not isinstance(item, cache.Entry):
            context.obj.warn(f"graph {item.id[:8]} is left out: {item.reason}")
    if not entries:
        raise IpaError(f"there is no graph in {store.root} to export", "`ipa compile` makes one")
    size = cache.export(store, entries, file, overwrite=force)
    data = {"file": str(file), "size": size, "graphs": [entry.id for entry in entries]}
    return Result("cache export", data, (f"wrote {_count(entries)} to {file}, {units.size(size)}",), paths=(file,))


@app.command("import", example="ipa cache import graphs.tar")
@options.with_settings("cache_dir", "cache_max_size")
def import_graphs(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive that `ipa cache export` wrote.")],
    trust: Annotated[bool, typer.Option("--trust", "--yes", "-y", help="Its maker is trusted: do not ask.")] = False,
) -> Result:
    """Take graphs out of an archive. They are native code: whoever made the archive can run anything as you."""
    from ipa_cli import cache

    store = _store(context)
    if not os.path.isfile(file):  # noqa: PTH113 (Path.is_file raises for impossible names)
        raise IpaError(f"there is no file {file}", "`ipa cache export FILE` writes one")
    statement = f"{file} holds native code that ipa will run: whoever made it can do anything you can"
    if not _agreed(context, trust, (), statement, "add --trust if you trust its maker"):
        return _nothing_done("cache import")
    brought = cache.import_(store, file)
    for item in brought.evicted.items:
        context.obj.note(f"graph {item.id[:8]} was removed to stay below {units.size(store.max_size or 0)}")
    data = {
        "added": [entry.id for entry in brought.added],
        "kept": [entry.id for entry in brought.kept],
        "evicted": [item.id for item in brought.evicted.items],
    }
    there = f", {len(brought.kept)} already here" if brought.kept else ""
    return Result("cache import", data, (f"took in {_count(brought.added)}{there}",))


@app.command("trust", example="ipa cache trust 3f9a10c2")
@options.with_settings("cache_dir")
def trust_graphs(
    context: typer.Context,
    key: Keys = None,
    yes: Yes = False,
) -> Result:
    """Mark graphs made elsewhere as your own, or all of them: from then on their code is run.

    They are native code: whoever made them can do anything you can.
    """
    from ipa_cli import cache
    from ipa_cli.engine import inventory

    store = _store(context)
    cache.check_owner(store)
    items = cache.plan(cache.scan(store), prefixes=key or ()).items
    foreign = [item for item in items if isinstance(item, cache.Entry) and cache.obstacle(item) is not None]
    if not foreign:
        return Result("cache trust", {"graphs": []}, ("nothing to trust: no such graph was made elsewhere",))
    lines = tuple(map(inventory.line, foreign))
    statement = f"this trusts {_count(foreign)}, native code that ipa will run: its maker can do anything you can"
    details = (*lines[:20], *_more(len(lines) - 20))
    if not _agreed(context, yes, details, statement, "add --yes if you trust its maker"):
        return _nothing_done("cache trust")
    for entry in foreign:
        cache.mark_trusted(store, entry)
    return Result("cache trust", {"graphs": [entry.id for entry in foreign]}, (f"trusted {_count(foreign)}",))


def _store(context: typer.Context) -> Store:
    from ipa_cli.cache import Store

    settings = options.settings(context).settings
    return Store(config.cache_dir(settings), config.cache_limit(settings))


def _parsed(name: str, text: str | None, parse: Callable[[str], int]) -> int | None:
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}", "`ipa cache clear --help` tells more") from None


def _check_backend(name: str | None, there: Iterable[str]) -> None:
    from ipa_cli import backends

    known = sorted({*backends.MODULES, *there})
    if name is not None and name not in known:
        raise UsageError(f"unknown backend '{name}'{suggest(name, known)}", f"choose one of {', '.join(known)}")


def _agreed(context: typer.Context, yes: bool, details: Iterable[str], statement: str, hint: str) -> bool:
    """Whether to go on: with `--yes`, or after a yes on a terminal. Raises UsageError without either."""
    if yes:
        return True
    if context.obj.json_mode or not sys.stdin.isatty():
        raise UsageError(statement, hint)
    # Not typer.confirm: it writes a blank on stdout.
    typer.echo("\n".join((*details, f"{statement}; go on? [y/N] ")), err=True, nl=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _nothing_done(command: str) -> Result:
    """After a no; status 1, so that what waits for the command does not go on."""
    return Result(command, {}, ("nothing done",), exit_code=1)


def _unfinished(found: Iterable[Work]) -> Iterator[str]:
    """What lies in the cache beside graphs, in words."""
    used, left = (sum(work.size for work in found if work.alive is alive) for alive in (True, False))
    if used:
        yield f"{units.size(used)} in use by running processes"
    if left:
        yield f"{units.size(left)} left behind by killed processes; `ipa cache clear` or the next run removes it"


def _all(items: Sequence[Item], left: Sequence[Work]) -> str:
    graphs = f"{_count(items)}, {units.size(sum(item.size for item in items))}" if items or not left else ""
    rest = f"{units.size(sum(work.size for work in left))} left behind by killed processes" if left else ""
    return ", and ".join(filter(None, (graphs, rest)))


def _count(graphs: Iterable[Any]) -> str:
    count = len(list(graphs))
    return f"{count} graph{'' if count == 1 else 's'}"


def _more(count: int) -> tuple[str, ...]:
    return (f"… and {count} more",) if count > 0 else ()
