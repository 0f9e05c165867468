"""Processes of their own with a time limit: a crash, a hang or a broken library there is an answer, not our end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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
    """Run a program for at most `seconds`, and end all it started when the time is over.

    It starts in an empty folder, so that nothing in the user's is taken for a module. Raises OSError when it
    cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="ipa-doctor-") as empty:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            cwd=empty,
            env={**os.environ, **(environ or {})},
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=seconds)
            return Ended(process.returncode, out, err)
        except subprocess.TimeoutExpired:
            return Ended(None)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def python(code: str, seconds: float, *arguments: str, environ: Mapping[str, str] | None = None) -> Ended:
    """Run `code` in this Python."""
    return run([sys.executable, "-c", code, *arguments], seconds, environ)
