"""What all commands share: plain help as wide as the terminal, and flags that every command and group takes.

Typer's own help would import rich, which takes longer than all the rest of `ipa --help`, and needs 80 columns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ipa_cli.config.settings import PANELS
from ipa_cli.errors import OutputError, UsageError

NARROW = 60  # columns; below, the help of a flag stands under it
_REST = "Options"


def echo(text: str) -> None:
    """Print help or a version on stdout. Raises OutputError when it cannot be written."""
    try:
        typer.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = None  # type: ignore[assignment]
        raise OutputError(error) from error


def _show_help(context: typer.Context, parameter: Any, value: Any) -> None:
    if value and not context.resilient_parsing:  # parsing for shell completion
        echo(context.get_help())
        context.exit()


class _Plain:
    """The help of commands and groups: flags under their headings, then an example."""

    epilog: str | None

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.callback = _show_help
        return option

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else _REST
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for title in sorted(sections, key=_place):
            _section(formatter, title, sections[title])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            with formatter.section("Example"):
                formatter.write(f"{'':{formatter.current_indent}}{self.epilog}\n")


def _place(title: str) -> int:
    """Where a heading stands: what only this command has comes first, what every command has last."""
    return (*PANELS, _REST).index(title) + 1 if title in (*PANELS, _REST) else 0


def _section(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:
    with formatter.section(title):
        formatter.write_dl(rows, col_max=30 if formatter.width >= NARROW else 4)


class Command(_Plain, TyperCommand):
    """A command."""

    def __init__(self, *arguments: Any, **attributes: Any):
        super().__init__(*arguments, **{**attributes, "rich_markup_mode": None})


class Group(_Plain, TyperGroup):
    """A group of commands; alone it shows its help, as wrong usage."""

    def __init__(self, **attributes: Any):
        super().__init__(**{**attributes, "rich_markup_mode": None, "no_args_is_help": False})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(UsageError.exit_code)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        rows = [(name, command.get_short_help_str(limit=200)) for name, command in self.commands.items()]
        _section(formatter, "Commands", rows)


class App(typer.Typer):
    """Commands that belong together; the flags of every command may also stand before its name."""

    def __init__(self, **attributes: Any):
        super().__init__(cls=Group, callback=_with_common_flags(lambda: None), **attributes)

    def callback(self, **attributes: Any) -> Any:
        register = super().callback(**attributes)
        return lambda function: register(_with_common_flags(function))

    def command(self, name: str | None = None, *, example: str = "", **attributes: Any) -> Any:
        register = super().command(name, cls=Command, epilog=example, **attributes)

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            register(_with_common_flags(function))
            return function

        return add


def _switch(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Set how results and errors are shown before other flags are read, so that errors in those are shown that way.

    The command decides, by its own flag or one before its name; until it is reached, the words of the command line do.
    """
    group = hasattr(context.command, "commands")
    if not context.resilient_parsing and (value or not group):
        name = str(parameter.name)
        getattr(context.obj, f"set_{name}")(bool(value) or _is_set(context.parent, name))
    return value


def _is_set(context: Any, name: str) -> bool:
    return context is not None and (bool(context.params.get(name)) or _is_set(context.parent, name))


def _tell(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    if value and not context.resilient_parsing:
        getattr(context.obj, f"set_{parameter.name}")(value)
    return value


def _flag(*declarations: str, help: str, callback: Callable[..., Any] = _tell, **more: Any) -> Any:
    return typer.Option(*declarations, help=help, is_eager=True, callback=callback, show_default=False, **more)


# Flags of the terminal, read before all others.
_COMMON: dict[str, tuple[Any, Any]] = {
    "json": (bool, _flag("--json", help="Print one JSON object on stdout.", callback=_switch)),
    "quiet": (
        bool,
        _flag(
            "--quiet",
            "-q",
            help="Show no progress and no notes, and of the result only the paths of written files.",
            callback=_switch,
        ),
    ),
    "verbose": (bool, _flag("--verbose", help="Show more notes: settings and their sources, the graph looked for.")),
    "debug": (bool, _flag("--debug", help="Show what libraries log, and the traceback of every error.")),
    "log_file": (
        str,
        _flag("--log-file", help="Also write notes, errors and what libraries log to a file.", metavar="FILE"),
    ),
}


def _with_common_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    options = {name: Annotated[kind | None, option] for name, (kind, option) in _COMMON.items()}
    return with_options(function, options)


def with_options(function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    """`function` for Typer with more options, None unless given: they are in the context, not in its arguments."""

    @wraps(function)
    def call(**arguments: Any) -> Any:
        return function(**{name: value for name, value in arguments.items() if name not in options})

    parameters = [*signature(function, eval_str=True).parameters.values(), *_keywords(options.items())]
    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _keywords(options: Iterable[tuple[str, Any]]) -> list[Parameter]:
    return [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, kind in options]
