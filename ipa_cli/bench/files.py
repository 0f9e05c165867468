"""The folder of a bench: what it shows, and what it needs as long as there is more to measure."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import files, keys
from ..errors import IpaError
from ..privacy import public_text
from . import chart, results, table
from .plan import Part, Spec
from .results import Bench

RESULTS, TABLE, CHART = "results.json", "table.md", "chart.png"
WORK = ".work"


def write(folder: Path, done: Bench) -> None:
    """Data, table and chart, each file whole or not at all. Raises IpaError when the folder cannot be written."""
    files.replace(folder / RESULTS, (json.dumps(results.to_data(done), indent=1) + "\n").encode())
    files.replace(folder / TABLE, public_text(table.markdown(done)).encode())
    files.replace(folder / CHART, chart.draw(done))


def claim(folder: Path, force: bool) -> None:
    """Make `folder`, so that what cannot be written is told first. Raises UsageError when a bench lies there."""
    if os.path.lexists(folder / RESULTS) and not force:
        hint = "choose another --output, go on with it by --resume, or replace it with --force"
        raise IpaError(f"{folder} holds a bench already", hint)
    for name in (RESULTS, TABLE, CHART):
        files.check_writable(folder / name, replacing=True)
    files.make_folder(folder / WORK)


def begun(folder: Path, asked: Mapping[str, Any], machine: Mapping[str, Any], specs: Sequence[Spec]) -> dict[str, Any]:
    """What a bench left in `folder`; nothing when there is none. Raises UsageError when it was of something else."""
    if not (folder / RESULTS).exists():
        return {}
    earlier = results.read(folder)
    differing = results.unlike(asked, earlier)
    differing += results.moved(machine, earlier)
    differing += [f"without {spec.text}" for spec in results.measured(earlier, "backends") if spec not in specs]
    if differing:
        raise IpaError(
            f"{folder} holds a bench of something else: {', '.join(differing)}",
            "ask for the same, or leave out --resume",
        )
    return earlier


def graphs(folder: Path, spec: Spec) -> Path:
    """The cache of a backend's graphs, its own, so that its first process has to compile."""
    return (folder / WORK / f"graphs-{_name(spec)}").absolute()


def drawn(folder: Path, spec: Spec) -> Path:
    """What a backend's first process drew, see `drawn.write`."""
    return (folder / WORK / f"drawn-{_name(spec)}.npz").absolute()


def log(folder: Path, part: Part) -> Path:
    """What a process that failed has said."""
    return folder / f"{keys.slug(part.spec.text)}-{part.kind}-{part.number}.log"


def clear(folder: Path) -> None:
    """Remove what only a bench that goes on needs."""
    shutil.rmtree(folder / WORK, ignore_errors=True)


def _name(spec: Spec) -> str:
    text = json.dumps(asdict(spec), sort_keys=True)
    return f"{spec.backend}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
