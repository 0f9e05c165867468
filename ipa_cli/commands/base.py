"""What all commands have in common: their help, in plain text as wide as the terminal, and flags of every one.

Typer's own help would import rich, which takes longer than all the rest of `ipa --help`, and needs 80 columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from ..errors import UsageError

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
    """A command with `--verbose`, `--debug` and `--log-file`."""

    def __init__(self, *arguments: Any, params: list[Any] | None = None, **attributes: Any):
        attributes["rich_markup_mode"] = None
        super().__init__(*arguments, params=[*(params or ()), *_flags()], **attributes)


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
        return super().command(name, cls=Command, epilog=example, **attributes)


def _flags() -> Iterator[TyperOption]:
    """Flags that only the terminal hears of, before any other is looked at."""
    flags: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("--verbose", "More notes: settings and their sources, which graph is looked for.", {"is_flag": True}),
        ("--debug", "What libraries log, and the traceback of every error.", {"is_flag": True}),
        ("--log-file", "Also write all notes, warnings, errors and library logs here.", {"metavar": "FILE"}),
    )
    for name, help, more in flags:
        yield TyperOption(param_decls=[name], help=help, expose_value=False, is_eager=True, callback=_tell, **more)


def _tell(ctx: Any, parameter: Any, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        getattr(ctx.obj, f"set_{parameter.name}")(value)
