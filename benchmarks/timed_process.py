"""Processes of `ipa` that are timed from outside, and a record of what they say."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.results import save


def run_ipa(command: Sequence[str], environment: Mapping[str, str], limit: float) -> dict[str, Any]:
    """Wall seconds of one process with --json, its notes and data, or its `failure`; ended after `limit` seconds."""
    began = time.perf_counter()
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failure": f"took longer than {limit:.0f} s"}
    figures: dict[str, Any] = {"wall_s": time.perf_counter() - began}
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return {**figures, "failure": (done.stderr.strip().splitlines() or ["nothing"])[-1]}
    if answer["error"]:
        return {**figures, "failure": answer["error"]["message"]}
    return {**figures, "notes": done.stderr.strip().splitlines(), **answer["data"]}


class Record:
    """Figures by name: each printed at once with the time since the beginning, all of them in $OUT/`file` if set."""

    def __init__(self, file: str):
        self.figures: dict[str, Any] = {}
        self._file = file
        self._began = time.perf_counter()

    def seconds(self) -> float:
        """Since the record was begun."""
        return time.perf_counter() - self._began

    def add(self, name: str, figures: Any) -> None:
        """Keep and print the figures of one part."""
        self.figures[name] = figures
        print(f"[{self.seconds():6.1f}] {name} {json.dumps(figures)}", flush=True)
        save(self._file, json.dumps(self.figures, indent=1))
