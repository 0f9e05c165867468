"""The only module that prints: results on stdout, everything else on stderr, one JSON object for `--json`."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ipa_cli.config.units import rate
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.result import Advance, Block, KeyValues, Picture, Result, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

SCHEMA_VERSION = 1
BUG_EXIT_CODE = 70
REPORT_LINES = 11  # a picture's own line, the summary below it, and the shell's prompt
NARROW = 30  # columns of a terminal; below, each value has a line of its own
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f]")


class Terminal:
    """Reports progress on stderr while a command runs, and prints its result at the end.

    rich is imported when it first draws a line: JSON and piped tables need no rich.
    """

    def __init__(self, json_mode: bool = False, quiet: bool = False):
        self.json_mode = json_mode
        self.quiet = quiet
        self.verbose = False
        self.debug = False
        self._log: TextIO | None = None

    @property
    def live(self) -> bool:
        """Whether progress bars and spinners are shown."""
        return sys.stderr.isatty() and not self.quiet and not os.environ.get("NO_COLOR")

    @cached_property
    def out(self) -> Console:
        from rich.console import Console

        return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

    @cached_property
    def err(self) -> Console:
        from rich.console import Console

        console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
        # The command goes on when stderr is closed (`ipa … 2>&1 | head`); rich would end the process.
        console.on_broken_pipe = lambda: setattr(console, "quiet", True)  # type: ignore[method-assign]
        return console

    def set_json(self, wanted: bool) -> None:
        self.json_mode = wanted

    def set_quiet(self, wanted: bool) -> None:
        self.quiet = wanted

    def set_verbose(self, wanted: bool) -> None:
        self.verbose = wanted

    def set_debug(self, wanted: bool) -> None:
        self.debug = wanted
        self._log_libraries()

    def set_log_file(self, name: str) -> None:
        """Append all messages to a file, shown or not. Raises IpaError when it cannot be written."""
        from ipa_cli.system.files import open_log

        self._log = open_log(Path(name), "name another --log-file")
        self._log_libraries()

    def _log_libraries(self) -> None:
        import logging

        class Forwarding(logging.Handler):
            def emit(handler, record: logging.LogRecord) -> None:
                self.library(handler.format(record))

        form = "%(name)s: %(levelname)s: %(message)s"
        logging.basicConfig(level=logging.DEBUG, format=form, handlers=[Forwarding()], force=True)

    def note(self, text: str) -> None:
        self._keep(text)
        if not self.quiet:
            self._say(text, style="dim")

    def detail(self, text: str) -> None:
        """A note that `--verbose` shows."""
        self._keep(text)
        if self.verbose or self.debug:
            self._say(text, style="dim")

    def library(self, text: str) -> None:
        """A log message of a library, which `--debug` shows."""
        self._keep(text)
        if self.debug:
            self._say(text, style="dim")

    def warn(self, text: str) -> None:
        self._keep(f"warning: {text}")
        self._labelled("warning", "yellow", text)

    def _keep(self, text: str) -> None:
        if self._log is not None:
            from ipa_cli.config.privacy import public_text

            try:
                self._log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {_harmless(public_text(text))}\n")
            except OSError as error:
                self._log = None
                self.warn(f"the log file is incomplete: {error.strerror}")

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        """A spinner with the elapsed time on a terminal; elsewhere one line at the end."""
        started = time.perf_counter()
        if self.live:
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
            with Progress(*columns, console=self.err, transient=True) as progress:
                task = progress.add_task(_harmless(name), total=None)
                yield lambda doing: progress.update(task, description=_harmless(f"{name}: {doing}"))
        else:
            yield lambda doing: None
        self.note(f"{name}: {time.perf_counter() - started:.1f} s")

    @contextmanager
    def steps(self, name: str, total: int) -> Iterator[Advance]:
        """A bar with it/s and the time left on a terminal; elsewhere nothing, as the result has the figures."""
        if not self.live:
            yield lambda: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        width = self.err.width
        columns = (
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", max_width=max(12, width - 60)),
            ),
            BarColumn(max(8, min(40, width - 60))),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.err, transient=True) as progress:
            task = progress.add_task(_harmless(name), total=total, speed="")
            started = time.perf_counter()
            done = 0

            def advance() -> None:
                nonlocal done
                done += 1
                progress.update(task, completed=done, speed=rate(done / (time.perf_counter() - started)))

            yield advance

    def show(self, result: Result) -> None:
        """Print a finished command's result on stdout."""
        if self.json_mode:
            status = "error" if result.failure else "ok"
            self._print_json(result.command, status, result.data, result.failure and _as_json(result.failure))
            return
        if result.stdout is not None:
            self._write_file(result.stdout, result.blocks)
            return
        if self.quiet and result.paths and not result.failure:
            self._print_paths(result.paths)
            return
        for block in result.blocks:
            if isinstance(block, Table):
                self._print_table(block)
            elif isinstance(block, Picture):
                self._print_picture(block)
            elif isinstance(block, KeyValues):
                self._print_key_values(block)
            else:
                self.out.print(_harmless(block) if sys.stdout.isatty() else block)
        sys.stdout.flush()

    def _write_file(self, data: bytes, blocks: Iterable[Block]) -> None:
        """Write a file to stdout, and the readable result to stderr."""
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        for block in blocks:
            if isinstance(block, KeyValues):
                for name, value in block.rows:
                    self.note(f"{name}: {value}")
            elif isinstance(block, str):
                self.note(block)

    def check_stdout_takes_bytes(self) -> None:
        """Raise UsageError unless a file may be written to stdout."""
        if self.json_mode:
            raise UsageError("--output - and --json both write to stdout", "leave out one or the other")
        if sys.stdout.isatty():
            raise UsageError(
                "a picture cannot be shown as bytes on a terminal", "ipa generate --output - | … or > cat.png"
            )

    def fail(self, command: str, error: IpaError) -> None:
        """Print a foreseen failure: what is wrong, and what to type next."""
        if self.debug:
            self.err.print(_harmless("".join(traceback.format_exception(error))))
        self._keep(f"error: {error.message} (hint: {error.hint})")
        if self.json_mode:
            self._print_json(command, "error", None, _as_json(error))
            return
        self._labelled("error", "bold red", error.message)
        if error.hint:  # on one line, so that it can be copied
            self.err.print("hint:", style="cyan", end=" ")
            self.err.print(_harmless(error.hint))

    def bug(self, command: str, error: BaseException) -> None:
        """Print an unexpected error with its traceback."""
        trace = "".join(traceback.format_exception(error))
        self._keep(trace)
        self.err.print(_harmless(trace))
        self.err.print("This is a bug in ipa: please report it with the lines above.")
        if self.json_mode:
            self._fail_json(command, type(error).__name__, str(error), "this is a bug in ipa: please report it")

    def interrupted(self, command: str, number: int) -> None:
        """Say which signal ended the command."""
        word = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        if self.json_mode:
            self._fail_json(command, "Interrupted", word, "")
        else:
            self.err.print(word)

    def check_preview(self) -> None:
        """Check before the long work whether this terminal can show pictures.

        Raises IpaError when it can and only the package for it is missing.
        """
        if self.json_mode or self.quiet or not sys.stdout.isatty():
            return
        if not self._shows_pictures:
            self.note("no preview: this terminal has no colours, or does not report what it supports")
        elif find_spec("textual_image") is None:
            raise IpaError("a preview needs textual-image", "pip install textual-image, or leave --preview out")

    @cached_property
    def _shows_pictures(self) -> bool:
        """Whether the terminal shows pictures; queries about it go to stdout and the answers come from stdin."""
        both = sys.stdout.isatty() and sys.stdin is not None and sys.stdin.isatty()
        return both and not self.quiet and self.out.color_system is not None and not self.out.no_color

    def _labelled(self, label: str, style: str, text: str) -> None:
        from rich.text import Text

        self._say(Text.assemble((f"{label}:", style), f" {_harmless(text)}"))

    def _say(self, text: str | Text, style: str | None = None) -> None:
        """Print a line on stderr, wrapped between words on a terminal."""
        self.err.print(
            _harmless(text) if isinstance(text, str) else text, style=style, soft_wrap=not self.err.is_terminal
        )

    def _fail_json(self, command: str, kind: str, message: str, hint: str) -> None:
        self._print_json(command, "error", None, {"type": kind, "message": message, "hint": hint})

    def _print_json(self, command: str, status: str, data: Any, error: Any) -> None:
        envelope = {
            "schema_version": SCHEMA_VERSION,
            "command": command,
            "status": status,
            "data": data,
            "error": error,
        }
        # ASCII works in every locale, also for file names that are not valid Unicode.
        sys.stdout.write(json.dumps(envelope, allow_nan=False) + "\n")
        sys.stdout.flush()

    def _print_paths(self, paths: Iterable[Path]) -> None:
        """Print paths one per line, byte for byte, for `f=$(ipa generate -q)`."""
        text = "".join(f"{path}\n" for path in paths)
        if sys.stdout.isatty():
            sys.stdout.write(_harmless(text))
        elif isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.buffer.write(os.fsencode(text))
        else:
            sys.stdout.write(text)
        sys.stdout.flush()

    def _print_picture(self, picture: Picture) -> None:
        """Show a picture as large as fits with the report around it; nothing without a terminal."""
        if not self._shows_pictures:
            return
        from textual_image.renderable import Image  # queries the terminal: sixel, kitty's protocol or half blocks

        self.out.print(Image(picture.path, width="auto", height="auto"), height=max(4, self.out.height - REPORT_LINES))

    def _print_key_values(self, block: KeyValues) -> None:
        if not sys.stdout.isatty() or self.out.width < NARROW:
            self._print_lines(block.rows)
            return
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable.grid(padding=(0, 2, 0, 2), pad_edge=True)
        drawn.add_column(style="dim", no_wrap=True)
        drawn.add_column(overflow="fold")
        for name, value in block.rows:
            drawn.add_row(_harmless(name), Text(_harmless(value)))
        self.out.print(drawn)

    def _print_lines(self, rows: Iterable[tuple[str, str]]) -> None:
        for name, value in rows:
            line = f"{name}: {value}"
            self.out.print(_harmless(line) if sys.stdout.isatty() else line)

    def _print_table(self, table: Table) -> None:
        """Print a table, as tab-separated lines when piped."""
        if not sys.stdout.isatty():
            for row in (table.columns, *table.rows):
                sys.stdout.write("\t".join(" ".join(cell.split()) for cell in row) + "\n")
            return
        if self.out.width < NARROW:
            chosen = table.narrow or table
            if chosen.title:
                self.out.print(_harmless(chosen.title))
            for row in chosen.rows:
                self._print_lines(zip(chosen.columns, row, strict=True))
            return
        from rich.measure import Measurement

        drawn = _drawn(table)
        if table.narrow is not None:
            wanted = Measurement.get(self.out, self.out.options.update(max_width=10_000), drawn).maximum
            drawn = drawn if wanted <= self.out.width else _drawn(table.narrow)
        self.out.print(drawn)


def _as_json(error: IpaError) -> dict[str, str]:
    return {"type": type(error).__name__, "message": error.message, "hint": error.hint}


def _drawn(table: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(title=table.title or None, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        drawn.add_column(_harmless(column), overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(_harmless(cell)) for cell in row))
    return drawn


def _harmless(text: str) -> str:
    """Text with control characters replaced, which could change the terminal's state."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)
