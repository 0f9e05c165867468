"""`ipa cache`: look at, check, remove and carry compiled graphs; torch is never imported."""

from __future__ import annotations

import gc
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import config
from ..config import units
from ..errors import UsageError
from ..report import Result, Table
from . import options

if TYPE_CHECKING:
    from .. import probe
    from ..store import Item, Store

app = typer.Typer(no_args_is_help=True, help="Look at, check and remove compiled graphs.")


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

Keys = Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="First digits of keys, as `ls` shows them.")]
OfBackend = Annotated[str | None, typer.Option("--backend", "-b", help="Only graphs of this backend.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("ls")
def list_graphs(
    context: typer.Context,
    sort: Annotated[
        Order, typer.Option("--sort", metavar="ORDER", help=f"By what to sort: {', '.join(Order)}.")
    ] = Order.used,
    backend: OfBackend = None,
    stale: Annotated[bool, typer.Option("--stale", help="Only graphs of no use on this machine.")] = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """List compiled graphs: what they are for, their size and use, and whether this machine can run them."""
    from .. import probe, store

    cache = _store(context)
    obstacles = _obstacles(probe.machine())
    everything = [_described(item, obstacles(item)) for item in store.each(cache)]
    gc.freeze()  # all of it stays to the end: the collector need not walk through it
    graphs = [one for one in everything if backend in (None, one["backend"]) and not (stale and one["usable"])]
    graphs.sort(key=lambda graph: graph["key"])
    graphs.sort(key=_ORDERS[sort], reverse=sort in _DOWN)
    total = sum(graph["size"] for graph in graphs)
    data = {"cache_dir": str(cache.root), "max_size": cache.max_size, "size": total, "graphs": graphs}
    if json:
        return Result("cache ls", data)
    if not graphs:
        which = "such graph" if everything else "compiled graph"
        return Result("cache ls", data, (f"no {which} in {cache.root}",))
    now = time.time()
    rows = [_row(graph, now) for graph in graphs]
    narrow = Table(("key", "graph", "usable here"), tuple(map(_stacked, rows)))
    return Result(
        "cache ls", data, (Table(_COLUMNS, tuple(rows), narrow=narrow), f"{_count(graphs)}, {units.size(total)}")
    )


@app.command()
def clear(
    context: typer.Context,
    key: Keys = None,
    backend: OfBackend = None,
    stale: Annotated[bool, typer.Option("--stale", help="Only graphs of no use on this machine.")] = False,
    older_than: Annotated[str | None, typer.Option(help="Only graphs not used for so long, such as 30d.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Only so many that the rest is smaller, such as 5GB.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: Yes = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Remove compiled graphs: all, or those that every given condition holds for."""
    from .. import probe, store

    cache = _store(context)
    seconds = _parsed("--older-than", older_than, units.parse_age)
    limit = _parsed("--max-size", max_size, units.parse_size)
    obstacles = _obstacles(probe.machine()) if stale else None
    chosen = store.plan(
        store.scan(cache),
        prefixes=key or (),
        wanted=lambda item: backend in (None, item.backend) and (obstacles is None or bool(obstacles(item))),
        used_before=None if seconds is None else time.time() - seconds,
        max_size=limit,
    )
    lines = tuple(
        _printable(
            f"{item.id[:8]}  {item.backend}  {item.model or '-'}  {item.gpu}  {item.shape}  {units.size(item.size)}"
        )
        for item in chosen.items
    )
    if dry_run or not chosen.items:
        data = {"dry_run": dry_run, "freed": chosen.size, "graphs": [item.id for item in chosen.items], "kept": []}
        summary = f"would remove {_count(chosen.items)}, {units.size(chosen.size)}" if lines else "nothing to remove"
        return Result("cache clear", data, (*lines, summary))
    statement = f"this removes {_count(chosen.items)}, {units.size(chosen.size)}"
    _agree(context, yes, (*lines[:20], *_more(len(lines) - 20)), statement, "add --yes, or look first with --dry-run")
    done = store.execute(cache, chosen)
    for item, reason in done.kept:
        context.obj.warn(f"graph {item.id[:8]} stays: {reason}")
    data = {
        "dry_run": False,
        "freed": done.size,
        "graphs": [item.id for item in done.items],
        "kept": [{"key": item.id, "reason": reason} for item, reason in done.kept],
    }
    return Result("cache clear", data, (f"removed {_count(done.items)}, {units.size(done.size)}",))


@app.command("dir")
def show_folder(
    context: typer.Context,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Print the folder of compiled graphs."""
    cache = _store(context)
    there = os.path.isdir(cache.root)  # noqa: PTH112 (Path.is_dir raises where this user may not look)
    return Result("cache dir", {"cache_dir": str(cache.root), "exists": there}, (str(cache.root),))


@app.command()
def verify(
    context: typer.Context,
    key: Keys = None,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Read every byte of the graphs and compare it with what was built; exit status 1 when one is damaged."""
    from .. import store

    cache = _store(context)
    items = store.plan(store.scan(cache), prefixes=key or ()).items
    with context.obj.stage("checking"):
        problems = {item.id: problem for item in items if (problem := store.verify(cache, item))}
    graphs = [{"key": item.id, "size": item.size, "problem": problems.get(item.id)} for item in items]
    data = {"cache_dir": str(cache.root), "checked": len(items), "damaged": len(problems), "graphs": graphs}
    lines = [f"{id[:8]}: {_printable(problem)}" for id, problem in problems.items()]
    lines.append(f"checked {_count(items)}, {units.size(sum(item.size for item in items))}: {len(problems)} damaged")
    if problems:
        lines.append(f"`ipa cache clear {' '.join(id[:8] for id in problems)}` removes what is damaged")
    return Result("cache verify", data, tuple(lines), exit_code=1 if problems else 0)


@app.command("export")
def export_graphs(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write.")],
    key: Keys = None,
    force: options.Force = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Write graphs into one archive, for a machine like this one."""
    from .. import store

    cache = _store(context)
    items = store.plan(store.scan(cache), prefixes=key or ()).items
    entries = [item for item in items if isinstance(item, store.Entry)]
    for item in items:
        if isinstance(item, store.Broken):
            context.obj.warn(f"graph {item.id[:8]} is left out: {item.reason}")
    if not entries:
        raise UsageError(f"there is no graph in {cache.root} to export", "`ipa compile` makes one")
    size = store.export(cache, entries, file, overwrite=force)
    data = {"file": str(file), "size": size, "graphs": [entry.id for entry in entries]}
    return Result("cache export", data, (f"wrote {_count(entries)} to {file}, {units.size(size)}",))


@app.command("import")
def import_graphs(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive that `ipa cache export` wrote.")],
    trust: Annotated[bool, typer.Option("--trust", "--yes", "-y", help="Its maker is trusted: do not ask.")] = False,
    cache_dir: options.CacheDir = None,
    cache_max_size: options.CacheMaxSize = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Take graphs out of an archive. They are native code: whoever made the archive can run anything as you."""
    from .. import store

    cache = _store(context)
    if not file.is_file():
        raise UsageError(f"there is no file {file}", "`ipa cache export FILE` writes one")
    statement = f"{file} holds native code that ipa will run: whoever made it can do anything you can"
    _agree(context, trust, (), statement, "add --trust if you trust its maker")
    brought = store.import_(cache, file)
    for item in brought.evicted.items:
        context.obj.note(f"graph {item.id[:8]} was removed to stay below {units.size(cache.max_size or 0)}")
    data = {
        "added": [entry.id for entry in brought.added],
        "kept": [entry.id for entry in brought.kept],
        "evicted": [item.id for item in brought.evicted.items],
    }
    there = f", {len(brought.kept)} already here" if brought.kept else ""
    return Result("cache import", data, (f"took in {_count(brought.added)}{there}",))


def _store(context: typer.Context) -> Store:
    from ..store import Store

    settings = options.settings(context).settings
    return Store(config.cache_dir(settings), config.cache_limit(settings))


def _parsed(name: str, text: str | None, parse: Callable[[str], int]) -> int | None:
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}", "`ipa cache clear --help` tells more") from None


def _agree(context: typer.Context, yes: bool, details: Iterable[str], statement: str, hint: str) -> None:
    """Go on only with `--yes`, or after a yes on a terminal. Raises UsageError without one, Abort after a no."""
    if yes:
        return
    if context.obj.json_mode or not sys.stdin.isatty():
        raise UsageError(statement, hint)
    # Not typer.confirm: it writes a blank on stdout.
    typer.echo("\n".join((*details, f"{statement}; go on? [y/N] ")), err=True, nl=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise typer.Abort()


def _described(item: Item, obstacles: list[str]) -> dict[str, Any]:
    return {
        "key": item.id,
        "backend": item.backend,
        "model": item.model,
        "gpu": item.gpu,
        "shape": item.shape,
        "size": item.size,
        "created": item.created,
        "last_used": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(item.last_used)),
        "hits": item.hits,
        "usable": not obstacles,
        "obstacles": obstacles,
        "broken": hasattr(item, "reason"),
        "path": item.path,
    }


def _obstacles(here: probe.Machine) -> Callable[[Item], list[str]]:
    """What says why a graph is of no use here, in words; nothing when it is."""
    from .. import backends, probe
    from ..store import Entry

    known: dict[tuple[str, str, str], list[str]] = {}  # thousands of graphs were built with the same few things

    def obstacles(item: Item) -> list[str]:
        if not isinstance(item, Entry):
            return [f"broken: {item.reason}"]
        case = (item.backend, item.gpu, item.built_with)
        if case not in known:
            known[case] = probe.differences(item.gpu, item.factors, here, backends.code(item.backend))
        return known[case]

    return obstacles


_COLUMNS = ("key", "backend", "model", "gpu", "shape", "size", "created", "last used", "hits", "usable here")


def _row(graph: dict[str, Any], now: float) -> tuple[str, ...]:
    cells = (
        graph["key"][:8],
        graph["backend"],
        graph["model"] or "-",
        graph["gpu"],
        graph["shape"],
        units.size(graph["size"]),
        _ago(graph["created"], now) if graph["created"] else "-",
        _ago(graph["last_used"], now) if graph["hits"] else "never",
        str(graph["hits"]),
        "yes" if graph["usable"] else ", ".join(graph["obstacles"]),
    )
    return tuple(map(_printable, cells))


def _printable(text: str) -> str:
    """An imported manifest may hold anything, and a terminal obeys control characters."""
    return text if text.isprintable() else re.sub(r"[^ -~\u00a1-\uffff]", "?", text)


def _stacked(row: tuple[str, ...]) -> tuple[str, ...]:
    """The same for a narrow terminal: lines below each other in place of columns."""
    key, backend, model, gpu, shape, size, created, used, hits, usable = row
    use = f"used {used}, {hits} {'time' if hits == '1' else 'times'}" if hits != "0" else "never used"
    lines = [f"{backend} {shape}, {model} on {gpu}", f"{size}, made {created}, {use}"]
    return (key, "\n".join(lines), "yes") if usable == "yes" else (key, "\n".join([*lines, usable]), "no")


def _ago(date: str, now: float) -> str:
    span = units.age(now - datetime.fromisoformat(date).timestamp())
    return span if span == "now" else f"{span} ago"


def _count(graphs: Iterable[Any]) -> str:
    count = len(list(graphs))
    return f"{count} graph{'' if count == 1 else 's'}"


def _more(count: int) -> tuple[str, ...]:
    return (f"… and {count} more",) if count > 0 else ()
