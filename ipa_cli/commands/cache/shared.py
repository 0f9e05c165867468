"""What the commands of `ipa cache` share: which graphs are meant, and asking before something is done."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa_cli import config
from ipa_cli.commands import options
from ipa_cli.config.units import plural
from ipa_cli.errors import IpaError, UsageError, suggest
from ipa_cli.result import Result

if TYPE_CHECKING:
    from ipa_cli.cache import Store


def known(context: typer.Context, incomplete: str) -> list[str]:
    """Keys for a shell to complete from; none where the cache cannot be read."""
    from ipa_cli.cache import Store, iter_entries

    try:
        settings = config.resolve({"cache_dir": context.params.get("cache_dir")}).settings
        return [
            item.id[:8] for item in iter_entries(Store(config.cache_dir(settings))) if item.id.startswith(incomplete)
        ]
    except IpaError:
        return []


Keys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY]...",
        help="Keys of graphs as `ipa cache ls` shows them, or their first digits.",
        autocompletion=known,
    ),
]
OfBackend = Annotated[
    str | None,
    options.flag(
        "--backend",
        "-b",
        help="only graphs of this backend",
        metavar="BACKEND",
        autocompletion=options.completion(options.backends),
    ),
]
Yes = Annotated[bool, options.flag("--yes", "-y", help="do not ask for confirmation")]


def store(context: typer.Context) -> Store:
    from ipa_cli.cache import Store

    settings = options.settings(context).settings
    return Store(config.cache_dir(settings), config.cache_limit(settings))


def check_backend(name: str | None, there: Iterable[str]) -> None:
    from ipa_cli import backends

    known = sorted({*backends.MODULES, *there})
    if name is not None and name not in known:
        raise UsageError(f"unknown backend '{name}'{suggest(name, known)}", f"choose one of {', '.join(known)}")


def agreed(context: typer.Context, yes: bool, details: Iterable[str], statement: str, hint: str) -> bool:
    """Whether to go on: with `--yes`, or after a yes on a terminal. Raises UsageError without either."""
    if yes:
        return True
    if context.obj.json_mode or not sys.stdin.isatty():
        raise UsageError(statement, hint)
    # Not typer.confirm: it writes a blank on stdout.
    typer.echo("\n".join((*details, f"{statement}; go on? [y/N] ")), err=True, nl=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def nothing_done(command: str) -> Result:
    """After a no; status 1, so that what waits for the command does not go on."""
    failure = IpaError("nothing done: the answer was no", "--yes does it without asking")
    return Result(command, {}, ("nothing done",), failure)


def count(graphs: Iterable[Any]) -> str:
    return plural(len(list(graphs)), "graph")


def more(count: int) -> tuple[str, ...]:
    return (f"… and {count} more",) if count > 0 else ()
