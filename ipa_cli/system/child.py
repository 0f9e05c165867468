"""The only module that starts other programs: none runs from the working directory, and none outlives `ipa`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

# Search paths of programs, modules and libraries; an empty or relative entry means the working directory.
SEARCHED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
# Programs in these are relative to the directory in which the user typed them.
NAMED = ("CC", "CXX")
# Where torch and Triton cache code; their defaults are names in TMPDIR that other users can guess and take first.
CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
# `-c` rather than `-m`, without its "" in sys.path: Python 3.10 has no other way to exclude the working directory.
_START = "import sys; sys.path[:] = filter(None, sys.path); import importlib; importlib.import_module({!r}).main()"
_RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"


def shield() -> None:
    """Keep this process and its libraries from loading modules and programs from the working directory."""
    sys.path[:] = module_path()
    clean = environment()
    os.environ.update(clean)
    for name in os.environ.keys() - clean.keys():
        del os.environ[name]


def environment(**more: str) -> dict[str, str]:
    """The user's environment with `more`, and without empty and relative entries in search paths."""
    found = {**os.environ, **more, "PYTHONSAFEPATH": "1"}
    for name in SEARCHED:
        if name in found:
            found[name] = os.pathsep.join(filter(os.path.isabs, found[name].split(os.pathsep)))
            if not found[name]:  # an empty list would mean the working directory again
                del found[name]
    for name in NAMED:
        if os.sep in found.get(name, ""):
            found[name] = os.path.abspath(found[name])  # noqa: PTH100
    return found


def temporary(folder: Path) -> dict[str, str]:
    """Environment variables that put temporary files and compilers' caches into `folder`."""
    return {"TMPDIR": str(folder), **{name: str(folder / place) for name, place in CACHES.items()}}


def module_path() -> list[str]:
    """`sys.path` without the working directory, unless PYTHONPATH names it, and with the folder of this package."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    here = None
    with suppress(OSError):  # it may have been deleted
        here = str(Path.cwd())
    package = str(Path(__file__).parents[2])
    found = [path for path in sys.path if Path(path).is_absolute() and (path != here or path in named)]
    return found if package in found else [*found, package]


def find(program: str) -> str | None:
    """The path of a program on PATH, never one in the working directory; None when there is none."""
    return shutil.which(program, path=environment().get("PATH"))


@dataclass(frozen=True)
class Ended:
    """How a process ended: `code` is None when its time ran out; `out` and `err` are its output."""

    code: int | None
    out: str = ""
    err: str = ""

    @property
    def why(self) -> str:
        """Why it failed: the last line of stderr, the signal that killed it, or that it took too long."""
        if self.code is None:
            return "it took too long"
        last = next((line.strip() for line in reversed(self.err.splitlines()) if line.strip()), "")
        if self.code < 0:
            return f"it crashed with {signal.Signals(-self.code).name}{f' ({last})' if last else ''}"
        return last or f"it ended with status {self.code}"


def run(command: Sequence[str], seconds: float, environ: Mapping[str, str] | None = None) -> Ended:
    """Run a program in an empty folder for at most `seconds`, then end it with all it has started.

    Raises OSError when it cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="ipa-run-") as empty:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            cwd=empty,
            env=environment(**(environ or {})),
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=seconds)
            return Ended(process.returncode, out, err)
        except subprocess.TimeoutExpired:
            return Ended(None)
        finally:
            end(process, seconds=1)


def attend(command: Sequence[str]) -> int:
    """Run a program on this terminal, in an empty folder, and return its exit status. Raises OSError as `run`."""
    with tempfile.TemporaryDirectory(prefix="ipa-run-") as empty:
        return subprocess.call(command, cwd=empty, env=environment())


def python(code: str, seconds: float, *arguments: str, environ: Mapping[str, str] | None = None) -> Ended:
    """Run `code` in this Python."""
    return run([sys.executable, "-c", code, *arguments], seconds, environ)


def script(path: Path, seconds: float, *arguments: str, environ: Mapping[str, str] | None = None) -> Ended:
    """Run a file in this Python; unlike with `python FILE`, modules are not taken from the file's folder."""
    return python(_RUN, seconds, str(path), *arguments, environ=environ)


def start(
    module: str, folder: Path, log: TextIO, environ: Mapping[str, str] | None = None, python: str | None = None
) -> subprocess.Popen[str]:
    """Start `main` of a module of this package, which calls `serve`, in its own session; `end` stops it.

    It runs in an empty folder within `folder`, which also gets its temporary files and compilers' caches. Another
    `python` imports its own packages, and from here only this very ipa. Raises OSError when it cannot be started.
    """
    empty, modules = folder / "empty", folder / "modules"
    empty.mkdir()
    if python is None:
        path = os.pathsep.join(module_path())
    else:
        modules.mkdir()
        package = Path(__file__).parents[1]
        (modules / package.name).symlink_to(package, target_is_directory=True)
        path = str(modules)
    inner = environment(**{**temporary(folder), **(environ or {}), "PYTHONPATH": path})
    if python is not None:
        inner.pop("PYTHONHOME", None)
    return subprocess.Popen(
        [python or sys.executable, "-c", _START.format(module)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        encoding="utf-8",
        errors="replace",
        cwd=empty,
        env=inner,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], seconds: float = 10) -> None:
    """Kill a process and all it started, and wait up to `seconds` until it is gone.

    A process that is inside a call to a broken driver goes only when that returns.
    """
    if process.returncode is None:  # not waited for yet, so its number cannot belong to another process
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def serve() -> tuple[Iterator[Any], Callable[[Any], None]]:
    """In a process of `start`: the jobs that arrive and a function that sends an answer, each as a line of JSON.

    This process ends with its parent, and so does all it has started. What libraries print goes to stderr.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    arriving = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(arriving, lines), daemon=True).start()

    def say(answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    return map(json.loads, iter(lines.get, None)), say


def _listen(arriving: int, lines: SimpleQueue[bytes]) -> None:
    rest = b""
    while data := os.read(arriving, 1 << 16):
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            lines.put(line)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
