"""`ipa bench`: every part in a process of its own, results on disk after each, whatever happens next."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import probe
from ..config import Settings
from ..errors import IpaError, UsageError
from ..report import Reporter
from . import chart, plan, process, results, table
from .plan import Part, Spec
from .results import Bench, Column

RESULTS, TABLE, CHART = "results.json", "table.md", "chart.png"
UNFINISHED, INTERRUPTED, OUT_OF_TIME = "not finished", "interrupted", "out of time"
# Settings that make two benches comparable; the rest of them is the same for all or of no weight.
TASK = ("model", "load_format", "ip_adapter", "device", "dtype", "steps", "guidance_scale", "scheduler")


@dataclass(frozen=True)
class Limits:
    """How often each backend is measured, and within how many seconds everything; None: as long as it takes."""

    runs: int
    budget: float | None = None


def asked(settings: Settings, specs: Sequence[Spec], batch: int = 1) -> dict[str, Any]:
    """What is to be measured, as far as two benches must agree in it to be compared."""
    ranges = {str(plan.options(spec)["dynamic"]) for spec in specs if plan.options(spec).get("dynamic")}
    return {
        "size": f"{settings.width}x{settings.height}" if settings.width else "the model's own",
        "batch": batch,
        "dynamic": sorted(ranges),
        **{name: getattr(settings, name) for name in TASK},
    }


def bench(settings: Settings, specs: Sequence[Spec], limits: Limits, folder: Path, reporter: Reporter) -> Bench:
    """Measure `specs` in turn, one process each; after every part `folder` holds all that is known so far.

    An interrupt or the end of the budget ends it early, and what was measured is returned.
    """
    started = time.monotonic()
    base = plan.baseline(specs)
    done = Bench(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        asked=asked(settings, specs),
        machine=machine(),
        columns=tuple(Column(spec) for spec in specs),
        baseline=base.text if base else None,
        stopped=UNFINISHED,
    )
    write(folder, done)
    seconds: dict[Part, float] = {}
    stopped = None
    ends = None if limits.budget is None else started + limits.budget
    with tempfile.TemporaryDirectory(prefix="ipa-bench-graphs-") as graphs:
        try:
            todo = list(plan.parts(specs, limits.runs))
            for number, part in enumerate(todo):
                if part.spec in _hopeless(done):
                    continue
                left = _time_left(done, todo[number:], seconds)
                with reporter.stage(f"[{number + 1}/{len(todo)}] {part}{left}") as doing:
                    began = time.monotonic()
                    job = _job(part, settings, Path(graphs, str(specs.index(part.spec))))
                    log = folder / f"part-{number + 1}.log"
                    answer = process.ask(job, part.spec.python, log, doing, reporter.warn, ends)
                seconds[part] = time.monotonic() - began
                done = replace(
                    done,
                    columns=tuple(_with(c, part, answer) if c.spec == part.spec else c for c in done.columns),
                    seconds=time.monotonic() - started,
                )
                write(folder, done)
                if answer.late:
                    stopped = OUT_OF_TIME
                    break
                if answer.reason:
                    reporter.warn(f"{part.spec.text}: {answer.reason}")
        except KeyboardInterrupt:
            stopped = INTERRUPTED
    done = replace(done, seconds=time.monotonic() - started, stopped=stopped)
    write(folder, done)
    return done


def write(folder: Path, done: Bench) -> None:
    """Data, table and chart, each file whole or not at all. Raises IpaError when the folder cannot be written."""
    _replace(folder / RESULTS, (json.dumps(results.to_data(done), indent=1) + "\n").encode())
    _replace(folder / TABLE, table.markdown(done).encode())
    _replace(folder / CHART, chart.draw(done))


def claim(folder: Path, force: bool) -> None:
    """Make `folder`, so that what cannot be written is told first. Raises UsageError when a bench lies there."""
    if (folder / RESULTS).exists() and not force:
        raise UsageError(f"{folder} holds a bench already", "choose another --output, or replace it with --force")
    with _in_words(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def machine() -> dict[str, Any]:
    """GPU, driver and processor of this machine."""
    found = probe.machine()
    return {
        "gpu": found.gpu.name if found.gpu else None,
        "driver": found.gpu.driver if found.gpu else None,
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def _hopeless(done: Bench) -> set[Spec]:
    """Backends whose first process failed: the others would too."""
    return {column.spec for column in done.columns if column.reason and not column.runs}


def _job(part: Part, settings: Settings, cache: Path) -> dict[str, Any]:
    chosen = replace(
        settings,
        backend=part.spec.backend,
        compile_options=part.spec.options,
        compile=True,
        offload="none",
        num_images=1,
        cache_dir=cache,
    )
    return {"kind": part.kind, "settings": json.loads(json.dumps(asdict(chosen), default=str))}


def _with(column: Column, part: Part, answer: process.Answer) -> Column:
    environment = answer.environment or column.environment
    if answer.figures is None:
        reason = None if answer.late else f"{part.kind} failed: {answer.reason}" if column.runs else answer.reason
        return replace(column, environment=environment, reason=reason, hint=answer.hint)
    if part.kind == "parity":
        return replace(column, environment=environment, parity=answer.figures)
    return replace(column, environment=environment, runs=(*column.runs, answer.figures))


def _time_left(done: Bench, todo: Sequence[Part], seconds: Mapping[Part, float]) -> str:
    """About how long the parts to do will take, in words, once it can be told."""
    # First runs compile and tell nothing about the others; of these the last one is the best guess.
    known = {part.spec: took for part, took in seconds.items() if (part.kind, part.number) != ("run", 1)}
    if not known:
        return ""
    usual = sum(known.values()) / len(known)
    left = sum(known.get(part.spec, usual) for part in todo if part.spec not in _hopeless(done))
    return f", about {left:.0f} s left" if left < 90 else f", about {left / 60:.0f} min left"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or probe.instruction_set()[0]


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with _in_words(path.parent):
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


@contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise IpaError(f"{folder} cannot be written: {error.strerror or error}", "choose another --output") from error
