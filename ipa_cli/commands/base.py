"""What all commands have in common: their help, in plain text as wide as the terminal, and flags of every one.

Typer's own help would import rich, which takes longer than all the rest of `ipa --help`, and needs 80 columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ipa_cli.errors import UsageError

NARROW = 60  # columns; below, what a flag does stands under it
_REST = "Options"


class _Plain:
    """The help of commands and groups: flags below their headings, then an example."""

    epilog: str | None

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else _REST
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for title in sorted(sections, key=lambda title: title == _REST):
            _section(formatter, title, sections[title])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            with formatter.section("Example"):
                formatter.write(f"{'':{formatter.current_indent}}{self.epilog}\n")


def _section(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:
    with formatter.section(title):
        formatter.write_dl(rows, col_max=30 if formatter.width >= NARROW else 4)


class Command(_Plain, TyperCommand):
    """A command."""

    def __init__(self, *arguments: Any, **attributes: Any):
        super().__init__(*arguments, **{**attributes, "rich_markup_mode": None})


class Group(_Plain, TyperGroup):
    """A command that has commands; alone it shows its help, as wrong usage."""

    def __init__(self, **attributes: Any):
        super().__init__(**{**attributes, "rich_markup_mode": None, "no_args_is_help": False})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:  # as for shell completion
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(UsageError.exit_code)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        rows = [(name, command.get_short_help_str(limit=200)) for name, command in self.commands.items()]
        _section(formatter, "Commands", rows)


class App(typer.Typer):
    """Commands that belong together."""

    def __init__(self, **attributes: Any):
        super().__init__(cls=Group, **attributes)

    def command(self, name: str | None = None, *, example: str = "", **attributes: Any) -> Any:
        register = super().command(name, cls=Command, epilog=example, **attributes)

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            register(_with_common_flags(function))
            return function

        return add


def _tell(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    if value and not context.resilient_parsing:  # as for shell completion
        getattr(context.obj, f"set_{parameter.name}")(value)
    return value


def _flag(name: str, help: str, **more: Any) -> Any:
    return typer.Option(name, help=help, is_eager=True, callback=_tell, show_default=False, **more)


# Flags that only the terminal hears of, before any other is looked at.
_COMMON: dict[str, tuple[Any, Any]] = {
    "verbose": (bool, _flag("--verbose", "More notes: settings and their sources, which graph is looked for.")),
    "debug": (bool, _flag("--debug", "What libraries log, and the traceback of every error.")),
    "log_file": (str, _flag("--log-file", "Also write all notes, errors and library logs here.", metavar="FILE")),
}


def _with_common_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` for Typer, which reads flags from a signature."""

    @wraps(function)
    def call(**arguments: Any) -> Any:
        return function(**{name: value for name, value in arguments.items() if name not in _COMMON})

    more = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])
        for name, (kind, option) in _COMMON.items()
    ]
    parameters = [*signature(function, eval_str=True).parameters.values(), *more]
    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call
