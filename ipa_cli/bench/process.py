"""One measurement in a process of its own, in this Python or another."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.config.privacy import public_text
from ipa_cli.system import child, files

if TYPE_CHECKING:
    import subprocess

MODULE = "ipa_cli.bench.worker"
LOG_LINES = 20  # the last ones, which say why a process failed


@dataclass(frozen=True)
class WorkerResult:
    """What a process measured: `figures`, or the reason why there are none or no more, and the end of its log."""

    figures: Mapping[str, Any] | None = None
    reason: str | None = None
    hint: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    timed_out: bool = False


def run_worker(
    job: Mapping[str, Any],
    python: str | None,
    log: Path,
    doing: Callable[[str], None],
    warn: Callable[[str], None],
    ends: float | None = None,
) -> WorkerResult:
    """Do `job` (see `worker`) in a new process with empty compiler caches; `log` is written when it fails.

    It may take until `ends` on the monotonic clock. The process and all that it started have ended when this returns
    or is interrupted.
    """
    with tempfile.TemporaryDirectory(prefix="ipa-bench-") as scratch, Path(scratch, "log").open("w") as stderr:
        try:
            process = child.start(MODULE, Path(scratch), stderr, python=python)
        except OSError as error:
            return WorkerResult(
                reason=f"{python or sys.executable} cannot be started: {error.strerror}", hint="check --python"
            )
        timer = None if ends is None else threading.Timer(max(0.0, ends - time.monotonic()), child.end, (process,))
        if timer is not None:
            timer.start()
        try:
            result = _listen(process, job, Path(scratch, "log"), doing, warn, ends)
        finally:
            if timer is not None:
                timer.cancel()
            child.end(process)
        return _with_log(result, Path(scratch, "log"), log) if result.reason else result


def _listen(
    process: subprocess.Popen[str],
    job: Mapping[str, Any],
    stderr: Path,
    doing: Callable[[str], None],
    warn: Callable[[str], None],
    ends: float | None,
) -> WorkerResult:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it ended already, and its log says why
    result, stage = WorkerResult(), ""
    for text in process.stdout:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if not isinstance(line, dict):  # a script around Python may print something of its own
            continue
        if "done" in line:
            return result if line["done"] else replace(result, reason=_failure(1, _read(stderr)))
        if "failed" in line:
            return replace(result, reason=line["failed"], hint=line["hint"])
        known = {name: line[name] for name in ("environment", "figures") if name in line}
        result = replace(result, **known)
        if "doing" in line:
            stage = line["doing"]
            doing(stage)
        if "warning" in line:
            result = replace(result, warnings=(*result.warnings, line["warning"]))
            warn(line["warning"])
    status = process.wait()
    if ends is not None and time.monotonic() >= ends:
        return replace(result, reason=f"--budget ran out{f' ({stage})' if stage else ''}", timed_out=True)
    return replace(result, reason=_failure(status, _read(stderr)))


def _with_log(result: WorkerResult, stderr: Path, log: Path) -> WorkerResult:
    """`result` with the end of what the process wrote to stderr; all of it goes to `log`."""
    text = _read(stderr)
    if not text.strip():
        return result
    files.replace(log, text.encode())
    return replace(result, hint=result.hint or f"its log: {log}", log=tuple(text.splitlines()[-LOG_LINES:]))


def _read(stderr: Path) -> str:
    return public_text(stderr.read_text(encoding="utf-8", errors="replace"))


def _failure(status: int, log: str) -> str:
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "no message")
    if status < 0:
        return f"the process crashed with {signal.Signals(-status).name} ({last})"
    return f"the process ended with status {status}: {last}"
