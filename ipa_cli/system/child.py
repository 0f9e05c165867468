"""The one way in which other programs are started: nothing in the working directory runs, and none outlives `ipa`."""

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

# Lists of folders in which programs, modules and libraries are looked for; there an empty or relative name means the
# working directory.
SEARCHED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
# A compiler that somebody names by a relative path is looked for where that was typed.
NAMED = ("CC", "CXX")
# Where torch and Triton keep code; by themselves they choose names in TMPDIR that others can guess and take first.
CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
# `-c` rather than `-m`, and its own "" taken away: Python 3.10 has no other way to leave the working directory out.
_START = "import sys; sys.path[:] = filter(None, sys.path); import importlib; importlib.import_module({!r}).main()"
_RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"


def shield() -> None:
    """Keep this process, and whatever its libraries start, from taking modules and programs from where it runs."""
    sys.path[:] = module_path()
    clean = environment()
    os.environ.update(clean)
    for name in os.environ.keys() - clean.keys():
        del os.environ[name]


def environment(**more: str) -> dict[str, str]:
    """The user's environment with `more`, where no list of folders holds the working directory unless by its name."""
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
    """The variables that let temporary files and compilers' caches go to `folder`."""
    return {"TMPDIR": str(folder), **{name: str(folder / place) for name, place in CACHES.items()}}


def module_path() -> list[str]:
    """`sys.path` without the working directory, but where PYTHONPATH names it, and with the place of this package."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    here = None
    with suppress(OSError):  # it may have been deleted
        here = str(Path.cwd())
    package = str(Path(__file__).parents[2])
    found = [path for path in sys.path if Path(path).is_absolute() and (path != here or path in named)]
    return found if package in found else [*found, package]


def find(program: str) -> str | None:
    """The path of a program, which a name alone never finds in the working directory."""
    return shutil.which(program, path=environment().get("PATH"))


@dataclass(frozen=True)
class Ended:
    """How a process ended: `code` is None when its time ran out; `out` and `err` are what it said."""

    code: int | None
    out: str = ""
    err: str = ""

    @property
    def why(self) -> str:
        """Why it failed: the last line of its complaint, the signal that killed it, or that it took too long."""
        if self.code is None:
            return "it took too long"
        last = next((line.strip() for line in reversed(self.err.splitlines()) if line.strip()), "")
        if self.code < 0:
            return f"it crashed with {signal.Signals(-self.code).name}{f' ({last})' if last else ''}"
        return last or f"it ended with status {self.code}"


def run(command: Sequence[str], seconds: float, environ: Mapping[str, str] | None = None) -> Ended:
    """Run a program in an empty folder for at most `seconds`, and end all it started when the time is over.

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
    """Start `main` of a module of ours, which calls `serve`, in a session of its own; `end` it.

    It begins in an empty folder within `folder`, which takes its temporary files and compilers' caches too. Another
    `python` finds its own packages, and of ours this very ipa alone. Raises OSError when it cannot be started.
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
    if process.returncode is None:  # nobody has waited for it: its number is not another's by now
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def serve() -> tuple[Iterator[Any], Callable[[Any], None]]:
    """In a process that `start` began: the jobs that arrive, and what sends an answer; each is a line of JSON.

    When the parent is gone, so is this process with all it has started. What libraries print goes to stderr.
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
