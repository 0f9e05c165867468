"""`ipa cache export` and `import`: take graphs to another machine in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ipa_cli.commands import options
from ipa_cli.commands.cache import shared
from ipa_cli.config import units
from ipa_cli.errors import IpaError
from ipa_cli.result import Result


@options.with_settings("cache_dir")
def export_graphs(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Archive to write.")],
    key: shared.Keys = None,
    force: options.Force = False,
) -> Result:
    """Write graphs to an archive, for a machine like this one."""
    from ipa_cli import cache

    options.check_on_disk(file, "an archive", "graphs.tar")
    store = shared.store(context)
    items = cache.plan(cache.scan(store), prefixes=key or ()).items
    entries = [item for item in items if isinstance(item, cache.Entry)]
    for item in items:
        if not isinstance(item, cache.Entry):
            context.obj.warn(f"graph {item.id[:8]} is left out: {item.reason}")
    if not entries:
        raise IpaError(f"there is no graph in {store.root} to export", "`ipa compile` makes one")
    size = cache.export(store, entries, file, overwrite=force)
    data = {"file": str(file), "size": size, "graphs": [entry.id for entry in entries]}
    return Result(
        "cache export", data, (f"wrote {shared.count(entries)} to {file}, {units.size(size)}",), paths=(file,)
    )


@options.with_settings("cache_dir", "cache_max_size")
def import_graphs(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Archive from `ipa cache export`.")],
    trust: Annotated[
        bool, options.flag("--trust", "--yes", "-y", help="trust the maker of the archive, without asking")
    ] = False,
) -> Result:
    """Add the graphs of an archive. They are native code: the maker of the archive can run anything as you."""
    from ipa_cli import cache

    store = shared.store(context)
    if not os.path.isfile(file):  # noqa: PTH113 (Path.is_file raises for impossible names)
        raise IpaError(f"there is no file {file}", "`ipa cache export FILE` writes one")
    statement = f"{file} holds native code that ipa will run: its maker can do anything you can"
    if not shared.agreed(context, trust, (), statement, "add --trust if you trust its maker"):
        return shared.nothing_done("cache import")
    brought = cache.import_(store, file)
    for item in brought.evicted.items:
        context.obj.note(f"graph {item.id[:8]} was removed to stay below {units.size(store.max_size or 0)}")
    data = {
        "added": [entry.id for entry in brought.added],
        "kept": [entry.id for entry in brought.kept],
        "evicted": [item.id for item in brought.evicted.items],
    }
    there = f", {len(brought.kept)} already here" if brought.kept else ""
    return Result("cache import", data, (f"added {shared.count(brought.added)}{there}",))
