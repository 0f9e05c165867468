"""One measurement in a process of its own, in this Python or another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODULE = "ipa_cli.bench.worker"


@dataclass(frozen=True)
class Answer:
    """What a process found out: `figures`, or the reason why there are none."""

    figures: Mapping[str, Any] | None = None
    reason: str | None = None
    hint: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    late: bool = False


def ask(
    job: Mapping[str, Any],
    python: str | None,
    log: Path,
    doing: Callable[[str], None],
    warn: Callable[[str], None],
    ends: float | None = None,
) -> Answer:
    """Have a fresh process do `job` (see `worker`) with empty caches of compilers; `log` is written when it crashes.

    It may take until `ends` on the monotonic clock. The process and all it started are gone when this returns or is
    interrupted.
    """
    with tempfile.TemporaryDirectory(prefix="ipa-bench-") as scratch, Path(scratch, "log").open("w") as stderr:
        command = [python or sys.executable, "-m", MODULE]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                encoding="utf-8",
                errors="replace",
                env=_environ(python, scratch),
                start_new_session=True,
            )
        except OSError as error:
            return Answer(reason=f"{command[0]} cannot be started: {error.strerror}", hint="check --python")
        timer = None if ends is None else threading.Timer(max(0.0, ends - time.monotonic()), _end, (process,))
        if timer is not None:
            timer.start()
        try:
            return _listen(process, job, Path(scratch, "log"), log, doing, warn, ends)
        finally:
            if timer is not None:
                timer.cancel()
            _end(process)


def _listen(
    process: subprocess.Popen[str],
    job: Mapping[str, Any],
    stderr: Path,
    log: Path,
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
    environment: Mapping[str, Any] = {}
    for text in process.stdout:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # a script around Python may say something first
        if "figures" in line:
            return Answer(figures=line["figures"], environment=environment)
        if "failed" in line:
            return Answer(reason=line["failed"], hint=line["hint"], environment=environment)
        environment = line.get("environment", environment)
        if "doing" in line:
            doing(line["doing"])
        if "warning" in line:
            warn(line["warning"])
    status = process.wait()
    if ends is not None and time.monotonic() >= ends:
        return Answer(reason="the time of --budget ran out", environment=environment, late=True)
    said = stderr.read_text(encoding="utf-8", errors="replace")
    log.write_text(said, encoding="utf-8")
    why = _why(status, said)
    return Answer(reason=why, hint=f"{log} has all it said", environment=environment)


def _why(status: int, log: str) -> str:
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "no message")
    if f"No module named '{MODULE.split('.')[0]}'" in log:
        return "ipa is not installed in this Python"
    if status < 0:
        return f"the process crashed with {signal.Signals(-status).name} ({last})"
    return f"the process ended with status {status}: {last}"


def _environ(python: str | None, scratch: str) -> dict[str, str]:
    """Caches that start empty; another Python finds its own packages."""
    environ = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(Path(scratch, "inductor")),
        "TRITON_CACHE_DIR": str(Path(scratch, "triton")),
        "PYTHONSAFEPATH": "1",  # nothing in the working folder is taken for a package
    }
    if python is None:
        return {**environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return {name: value for name, value in environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
