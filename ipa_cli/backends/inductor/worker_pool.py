"""Processes that compile parts of a UNet side by side, and the error when one ends without an answer."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from ipa_cli.errors import IpaError
from ipa_cli.system import child

if TYPE_CHECKING:
    import subprocess

MODULE = "ipa_cli.backends.inductor.worker"

COMPILER_FAILED = "InductorError"  # in the log, where torch or a compiler that it calls gives up

Submit = Callable[[dict[str, Any]], Future]


class Worker(NamedTuple):
    """A process that compiles, and the file that gets what it prints."""

    process: subprocess.Popen[str]
    log: Path


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
    """Start `count` processes that compile, with `threads` each; yields a function from a job to its Future.

    A job that torch's compiler fails is done once more in a new process; its answer then has the `first_error`.
    """
    idle: SimpleQueue[Worker] = SimpleQueue()
    lock, workers, ending = threading.Lock(), [_start(work, threads) for _ in range(count)], False
    for worker in workers:
        idle.put(worker)

    def replaced(worker: Worker) -> Worker:
        with lock:
            if not ending:
                worker = _start(work, threads)
                workers.append(worker)
            return worker

    def ask(job: dict[str, Any]) -> dict[str, Any]:
        worker = idle.get()
        earlier: dict[str, str] = {}
        try:
            while not (line := _ask(worker, job)):
                status, output = worker.process.wait(), worker.log.read_text(errors="replace")
                worker = replaced(worker)
                if earlier or status < 0 or COMPILER_FAILED not in output:
                    raise failure(Path(job["package"]).stem, status, output, bool(earlier)) from RuntimeError(output)
                earlier = {"first_error": _first_error(output)}
            return {**json.loads(line), **earlier}
        finally:
            idle.put(worker)  # one that has ended too, or another job would wait for it

    pool = ThreadPoolExecutor(count)
    try:
        yield lambda job: pool.submit(ask, job)
    finally:
        with lock:
            ending = True
        for worker in workers:
            child.end(worker.process)  # the threads that wait for its answer wake up
        pool.shutdown(cancel_futures=True)


def _ask(worker: Worker, job: dict[str, Any]) -> str:
    """The line that a process answers; empty where it ends without one."""
    assert worker.process.stdin is not None and worker.process.stdout is not None
    try:
        worker.process.stdin.write(json.dumps(job) + "\n")
        worker.process.stdin.flush()
        return worker.process.stdout.readline()
    except BrokenPipeError:
        return ""


def _start(work: Path, threads: int) -> Worker:
    """A process that compiles, with caches of its own in `work`, or they would wait for each other's locks."""
    folder = Path(tempfile.mkdtemp(dir=work))
    environment = {
        "TORCHINDUCTOR_COMPILE_THREADS": str(threads),
        "TORCHINDUCTOR_VEC_ISA_OK": "1",  # or programs are built to see whether the compiler knows the CPU
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(work),  # where precompiled headers are shared
    }
    with (folder / "log").open("w") as log:
        return Worker(child.start(MODULE, folder, log, environment), folder / "log")


def again(name: str, answer: Mapping[str, Any]) -> list[str]:
    """A warning where a region was compiled once more."""
    error = answer.get("first_error")
    return [f"compiling {name} failed at first ({error}); a new process compiled it"] if error else []


def failure(name: str, status: int, log: str, twice: bool = False) -> IpaError:
    """The error for a worker that ended without an answer to a job for the region `name`."""
    if status == -signal.SIGKILL:
        return IpaError(
            f"the process that compiles {name} was killed, as the system does where main memory runs out",
            "end other programs and type it again; fewer cores compile less at once: taskset -c 0,1 ipa compile …",
        )
    if status < 0:
        return IpaError(
            f"what the C++ compiler ({compiler()}) makes of {name} crashes when it is loaded (signal {-status})",
            "set CXX to a compiler that links libstdc++ dynamically, such as CXX=/usr/bin/g++, or --backend eager",
        )
    return IpaError(
        f"compiling {name} failed{' twice' if twice else ''}: {_first_error(log)}",
        "type ipa doctor to check the compiler, or choose --backend eager; --debug shows all that it said",
    )


def _first_error(log: str) -> str:
    """The first error of a compiler or linker in a log, else its last line."""
    if found := re.search(r"\b(error|ld): (?!warning).+", log):
        return found[0].strip()
    return next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "no message")
