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
from ipa_cli.system import child

if TYPE_CHECKING:
    import subprocess

from ipa_cli.system import files

MODULE = "ipa_cli.bench.worker"
LAST = 20  # lines of its log that tell why a process failed


@dataclass(frozen=True)
class Answer:
    """What a process found out: `figures`, or the reason why there are none or no more, and the last lines it said."""

    figures: Mapping[str, Any] | None = None
    reason: str | None = None
    hint: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    late: bool = False


def ask(
    job: Mapping[str, Any],
    python: str | None,
    log: Path,
    doing: Callable[[str], None],
    warn: Callable[[str], None],
    ends: float | None = None,
) -> Answer:
    """Have a fresh process do `job` (see `worker`) with empty caches of compilers; `log` is written when it fails.

    It may take until `ends` on the monotonic clock. The process and all it started are gone when this returns or is
    interrupted.
    """
    with tempfile.TemporaryDirectory(prefix="ipa-bench-") as scratch, Path(scratch, "log").open("w") as stderr:
        try:
            process = child.start(MODULE, Path(scratch), stderr, python=python)
        except OSError as error:
            return Answer(
                reason=f"{python or sys.executable} cannot be started: {error.strerror}", hint="check --python"
            )
        timer = None if ends is None else threading.Timer(max(0.0, ends - time.monotonic()), child.end, (process,))
        if timer is not None:
            timer.start()
        try:
            answer = _listen(process, job, Path(scratch, "log"), doing, warn, ends)
        finally:
            if timer is not None:
                timer.cancel()
            child.end(process)
        return _with_log(answer, Path(scratch, "log"), log) if answer.reason else answer


def _listen(
    process: subprocess.Popen[str],
    job: Mapping[str, Any],
    stderr: Path,
    doing: Callable[[str], None],
    warn: Callable[[str], None],
    ends: float | None,
) -> Answer:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it ended already, and its log says why
    answer, busy = Answer(), ""
    for text in process.stdout:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # a script around Python may say something first
        if "done" in line:
            return answer if line["done"] else replace(answer, reason=_why(1, _read(stderr)))
        if "failed" in line:
            return replace(answer, reason=line["failed"], hint=line["hint"])
        known = {name: line[name] for name in ("environment", "figures") if name in line}
        answer = replace(answer, **known)
        if "doing" in line:
            busy = line["doing"]
            doing(busy)
        if "warning" in line:
            answer = replace(answer, warnings=(*answer.warnings, line["warning"]))
            warn(line["warning"])
    status = process.wait()
    if ends is not None and time.monotonic() >= ends:
        return replace(answer, reason=f"the time of --budget ran out{f' ({busy})' if busy else ''}", late=True)
    return replace(answer, reason=_why(status, _read(stderr)))


def _with_log(answer: Answer, stderr: Path, log: Path) -> Answer:
    """`answer` with the end of what the process said; the whole of it goes to `log`."""
    said = _read(stderr)
    if not said.strip():
        return answer
    files.replace(log, said.encode())
    return replace(answer, hint=answer.hint or f"{log} has all it said", log=tuple(said.splitlines()[-LAST:]))


def _read(stderr: Path) -> str:
    return public_text(stderr.read_text(encoding="utf-8", errors="replace"))


def _why(status: int, log: str) -> str:
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "no message")
    if status < 0:
        return f"the process crashed with {signal.Signals(-status).name} ({last})"
    return f"the process ended with status {status}: {last}"
