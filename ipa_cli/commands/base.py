"""What all commands share: plain help as wide as the terminal, and flags that every command and group takes.

Typer's own help would import rich, which takes longer than all the rest of `ipa --help`, and needs 80 columns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from ipa_cli.commands import usage
from ipa_cli.config.setting import PANELS
from ipa_cli.errors import OutputError, UsageError

NARROW = 60  # columns; below, the help of a flag stands under it
_REST = "Options"
_REPEATED = "repeated"
_Function = TypeVar("_Function", bound=Callable[..., Any])


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
        below = f" /\n{'':{formatter.current_indent}}"  # where a flag and its opposite have no room side by side
        rows = [(name if len(name) < formatter.width else name.replace(" / ", below), text) for name, text in rows]
        formatter.write_dl(rows, col_max=30 if formatter.width >= NARROW else 4)


class Command(_Plain, TyperCommand):
    """A command with its own parameters, the flags of its settings, see `with_options`, and those of every command."""

    def __init__(self, *arguments: Any, params: list[Any], callback: Any, **attributes: Any):
        self.own = [parameter.name for parameter in params]
        more = [*getattr(callback, "options", ()), *common_options()]
        attributes = {**attributes, "params": [*params, *more], "callback": callback, "rich_markup_mode": None}
        super().__init__(*arguments, **attributes)

    def make_parser(self, ctx: Any) -> Any:
        """The parser of click, with a look at what it read, and at flags of one value that are given several times."""
        parser = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            found = parse(args)
            ctx.meta[usage.GIVEN] = found[0]
            single = [one for one in found[2] if not (getattr(one, "multiple", True) or getattr(one, "is_flag", True))]
            ctx.meta[_REPEATED] = [one for one in dict.fromkeys(single) if single.count(one) > 1]
            return found

        parser.parse_args = parse_args  # type: ignore[method-assign]
        return parser

    def invoke(self, ctx: Any) -> Any:
        for option in ctx.meta.get(_REPEATED, ()):
            ctx.obj.note(f"{max(option.opts, key=len)} takes one value: of those given the last one counts")
        return ctx.invoke(self.callback, **{name: value for name, value in ctx.params.items() if name in self.own})


class Group(_Plain, TyperGroup):
    """A group of commands; alone it shows its help, as wrong usage."""

    def __init__(self, params: list[Any], **attributes: Any):
        attributes = {**attributes, "params": [*params, *common_options()]}
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
        super().__init__(cls=Group, callback=lambda: None, **attributes)

    def command(self, name: str | None = None, *, example: str = "", **attributes: Any) -> Any:
        return super().command(name, cls=Command, epilog=example, **attributes)


def with_options(options: Sequence[TyperOption]) -> Callable[[_Function], _Function]:
    """Give a command more options than its function has parameters: their values are in the context alone."""

    def extend(function: _Function) -> _Function:
        function.options = options  # type: ignore[attr-defined]
        return function

    return extend


@cache
def common_options() -> tuple[TyperOption, ...]:
    """The flags of every command and group; they belong to the terminal, and are read before all others."""
    return (
        _common("--json", help="Print one JSON object on stdout.", is_flag=True, callback=_switch),
        _common(
            "--quiet",
            "-q",
            help="Show no progress and no notes, and of the result only the paths of written files.",
            is_flag=True,
            callback=_switch,
        ),
        _common("--verbose", help="Show more notes: settings and their sources, the graph looked for.", is_flag=True),
        _common("--debug", help="Show what libraries log, and the traceback of every error.", is_flag=True),
        _common("--log-file", help="Also write notes, errors and what libraries log to a file.", metavar="FILE"),
    )


def _common(*declarations: str, callback: Callable[..., Any] | None = None, **more: Any) -> TyperOption:
    callback = callback or _tell
    return TyperOption(param_decls=list(declarations), is_eager=True, expose_value=False, callback=callback, **more)


def _switch(context: Any, parameter: Any, value: Any) -> Any:
    """Set how results and errors are shown before other flags are read, so that errors in those are shown that way.

    The command decides, by its own flag or one before its name; until it is reached, the words of the command line do.
    """
    seen = context.meta[parameter.name] = bool(value) or context.meta.get(parameter.name, False)
    group = hasattr(context.command, "commands")
    if not context.resilient_parsing and (seen or not group):
        getattr(context.obj, f"set_{parameter.name}")(seen)
    return value


def _tell(context: Any, parameter: Any, value: Any) -> Any:
    if value and not context.resilient_parsing:
        getattr(context.obj, f"set_{parameter.name}")(value)
    return value
