"""Processes that compile parts of a UNet side by side, and the error when one ends without an answer."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ipa_cli.errors import IpaError
from ipa_cli.system import child

if TYPE_CHECKING:
    import subprocess

MODULE = "ipa_cli.backends.inductor.worker"

Submit = Callable[[dict[str, Any]], Future]


def compiler() -> str:
    """The C++ compiler that torch uses."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def compiler_works() -> bool:
    """Whether the compiler starts at all."""
    path = child.find(compiler())
    try:
        return path is not None and child.run([path, "--version"], 20).code == 0
    except OSError:
        return False


@contextmanager
def started(work: Path, count: int, threads: int = 1) -> Iterator[Submit]:
    """Start `count` processes that compile, with `threads` each; yields a function from a job to its Future."""
    folders = [Path(tempfile.mkdtemp(dir=work)) for _ in range(count)]
    workers = [(_start(folder, threads), folder / "log") for folder in folders]
    idle: SimpleQueue[tuple[subprocess.Popen[str], Path]] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def ask(job: dict[str, Any]) -> dict[str, Any]:
        process, log = idle.get()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            idle.put((process, log))  # one that has ended too, or another job would wait for it
        if line:
            return json.loads(line)
        output = log.read_text(errors="replace")
        raise failure(process.wait(), output) from RuntimeError(output)

    pool = ThreadPoolExecutor(count)
    try:
        yield lambda job: pool.submit(ask, job)
    finally:
        for process, _ in workers:
            child.end(process)  # the threads that wait for its answer wake up
        pool.shutdown(cancel_futures=True)


def _start(folder: Path, threads: int) -> subprocess.Popen[str]:
    """A process that compiles, with caches of its own in `folder`, or they would wait for each other's locks."""
    environment = {
        "TORCHINDUCTOR_COMPILE_THREADS": str(threads),
        "TORCHINDUCTOR_VEC_ISA_OK": "1",  # or programs are built to see whether the compiler knows the CPU
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder.parent),  # where precompiled headers are shared
    }
    with (folder / "log").open("w") as log:
        return child.start(MODULE, folder, log, environment)


def failure(status: int, log: str) -> IpaError:
    """The error for a worker that ended without an answer."""
    if status < 0:
        return IpaError(
            f"what the C++ compiler ({compiler()}) makes crashes when it is loaded (signal {-status})",
            "set CXX to a compiler that links libstdc++ dynamically, such as CXX=/usr/bin/g++, or --backend eager",
        )
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "no message")
    return IpaError(f"compiling failed: {last}", "type ipa doctor to check the compiler, or choose --backend eager")
