"""The command `ipa`: its commands, and the one place where errors become messages and exit statuses."""

from __future__ import annotations

import atexit
import gc
import io
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache as remembered
from typing import Any, NoReturn

import typer

from ipa_cli import __version__
from ipa_cli.commands import (
    batch,
    bench,
    cache,
    compile,
    config,
    doctor,
    embed,
    generate,
    samplers,
    serve,
    sweep_scale,
    usage,
)
from ipa_cli.commands.base import App, echo
from ipa_cli.errors import IpaError, OutputError, UsageError
from ipa_cli.output import BUG_EXIT_CODE, Terminal
from ipa_cli.result import Result
from ipa_cli.system import child
from ipa_cli.system.interruption import Interruption

INTERRUPTED_EXIT_CODE = 130  # Ctrl-C, as Typer and commands report it

# Typer has shipped its own Click since 0.26, so the exception family is reached through Typer.
ClickException: Any = typer.BadParameter.__mro__[2]


app = App(
    name="ipa",
    help="Draw pictures with SDXL and an IP-Adapter: compiled once, reloaded in seconds, with an adjustable scale.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        echo(f"ipa {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", "-V", help="Show the version.", callback=_version, is_eager=True),
) -> None:
    pass


app.command("generate", example='ipa generate --image cat.png --prompt "a red star" --scale 0.6')(generate.generate)
app.command("sweep-scale", example="ipa sweep-scale --scales 0,0.5,1 --image cat.png --output sweep")(
    sweep_scale.sweep_scale
)
app.command(
    "batch",
    short_help="Draw many jobs from a file, each once; resumable.",
    example="ipa batch jobs.jsonl --model sdxl --output s3://bucket/drawn --resume",
)(batch.batch)
app.command("compile", example="ipa compile --size 1024x1024")(compile.compile)
app.command("embed", example="ipa embed cat.png dog.png --output pets.safetensors")(embed.embed)
app.command(
    "bench",
    short_help="Measure backends: speed, memory, warm-up, parity.",
    example="ipa bench --backends eager,inductor --size 1024x1024 --output bench",
)(bench.bench)
app.command("serve", example="ipa serve --model sdxl --warm 1024x1024,832x1216")(serve.serve)
app.command("samplers", example="ipa samplers --json")(samplers.samplers)
app.command("doctor", example="ipa doctor --backend inductor")(doctor.doctor)
app.add_typer(cache.app, name="cache")
app.add_typer(config.app, name="config")


def run(arguments: Sequence[str], interruption: Interruption | None = None) -> int:
    """Run one command and return its exit status."""
    interruption = interruption or Interruption()
    # For errors in the command line itself; once it is parsed, its flags count.
    words = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    terminal = Terminal(json_mode="--json" in words)
    command = _command_name(arguments)
    try:
        interruption.stop_deferring()
        outcome = _program().main(
            list(arguments), prog_name="ipa", standalone_mode=False, obj=terminal, terminal_width=_width()
        )
        if outcome == INTERRUPTED_EXIT_CODE:
            raise KeyboardInterrupt
        interruption.hold_off()
        if not isinstance(outcome, Result):
            return outcome if isinstance(outcome, int) else 0
        exit_code = _show(terminal, outcome)
        return interruption.exit_code if exit_code == INTERRUPTED_EXIT_CODE else exit_code
    except OutputError as error:
        Terminal(quiet=terminal.quiet).fail(command, error)
        return error.exit_code
    except IpaError as error:
        terminal.fail(command, error)
        return error.exit_code
    except ClickException as error:
        terminal.fail(command, usage.explained(error, command))
        return UsageError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        interruption.hold_off()
        terminal.interrupted(command, interruption.number)
        return interruption.exit_code
    except BrokenPipeError:
        # The reader of stdout is gone (`ipa … | head`), so the rest of the output is dropped.
        sys.stdout = None  # type: ignore[assignment]
        return 0
    except Exception as error:
        terminal.bug(command, error)
        return BUG_EXIT_CODE


def _show(terminal: Terminal, result: Result) -> int:
    try:
        terminal.show(result)
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = None  # type: ignore[assignment]
        raise OutputError(error) from error
    return result.exit_code


def _width() -> int:
    """Columns of help: those of the terminal, at most 100."""
    return min(shutil.get_terminal_size().columns, 100)


@remembered
def _program() -> Any:
    return typer.main.get_command(app)


def _command_name(arguments: Sequence[str]) -> str:
    """The words that name a command, such as "cache ls"; flags of every command may stand before them."""
    commands = _program().commands
    words: list[str] = []
    for word in arguments:
        if word in commands:
            words.append(word)
            commands = getattr(commands[word], "commands", {})
        elif not commands or not word.startswith("-"):
            break
    return " ".join(words)


def main(interruption: Interruption) -> None:
    # Imports make many objects and no garbage: collecting meanwhile takes a tenth of the start-up time.
    gc.set_threshold(100_000, 50, 50)
    _open_closed_streams()
    child.shield()
    # File names may contain characters that the locale cannot show.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if "COMP_WORDS" in os.environ:
        _join_flags_and_values()
    _exit(run(sys.argv[1:], interruption))


def _exit(code: int) -> NoReturn:
    """End the process: as Python does, but without taking torch's modules apart, which takes half a second."""
    if "torch" not in sys.modules:
        sys.exit(code)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):  # a reader that is gone; what the result lacks then was reported
            stream.flush()
    os._exit(code)


def _join_flags_and_values() -> None:
    """Let completion see `--scheduler=d` as `--scheduler d`: bash hands over three words, one of them "="."""
    words, current = os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"])
    signs = [at for at, word in enumerate(words) if word == "=" and words[at - 1].startswith("--")]
    kept = ["" if at in signs else word for at, word in enumerate(words) if at not in signs or at == current]
    os.environ["COMP_WORDS"] = "\n".join(kept)
    os.environ["COMP_CWORD"] = str(current - sum(at < current for at in signs))


def _open_closed_streams() -> None:
    """Open stdin, stdout and stderr on /dev/null where the shell closed them (`>&-`).

    Otherwise Python has `None` in their place, and the next file opened gets their number and all that libraries print.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
