"""Drawing the points of a sweep with one engine, each on disk before the next is begun."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_cli.config.privacy import public_text
from ipa_cli.config.units import plural
from ipa_cli.engine.engine import Engine
from ipa_cli.engine.ready import Ready
from ipa_cli.engine.record import record
from ipa_cli.errors import IpaError
from ipa_cli.images import encode
from ipa_cli.result import Reporter
from ipa_cli.sweep import journal
from ipa_cli.sweep.journal import Outcome
from ipa_cli.sweep.layout import Layout, Size
from ipa_cli.sweep.plan import Point


@dataclass(frozen=True)
class Stats:
    """What one run drew: `recompiles` are graphs made after the first call of each size; times in seconds.

    Where other processes drew, their graphs are not known here.
    """

    drawn: int
    recompiles: int | None
    graphs: tuple[Mapping[str, Any], ...]
    timings: Mapping[str, float]


def prepare(engine: Engine, layout: Layout, backends: Mapping[Size, str], reporter: Reporter) -> dict[Size, Ready]:
    """Encode every prompt and reference, and open a graph for every size; one serves several where it can."""
    with reporter.stage("encoding prompts and references"):
        engine.encode([layout.request(row) for row in layout.sweep.rows])
    return {size: engine.prepare(request, backends[size]) for size, request in layout.first_of_size.items()}


def draw_points(
    engine: Engine,
    layout: Layout,
    graphs: Mapping[Size, Ready],
    folder: Path,
    missing: Sequence[Point],
    outcomes: dict[int, Outcome],
    reporter: Reporter,
) -> Stats:
    """Draw the `missing` points into `folder` and add them to `outcomes`, row by row."""
    step_seconds = _warm_up(engine, layout, reporter)
    made, steps = graphs_made(graphs), layout.base.steps_taken
    expected = sum(steps * step_seconds[point.row.width, point.row.height] for point in missing)
    counts = f"{plural(len(missing), 'picture')} to draw, {plural(steps, 'step')} each"
    reporter.note(f"{counts}: about {_duration(expected)}")

    started = time.perf_counter()
    for drawn, point in enumerate(missing, 1):
        outcome = _draw_point(engine, layout, graphs, folder, point)
        journal.append(folder, layout.sweep, outcome)
        outcomes[point.number] = outcome
        tell(outcome, drawn, len(missing), time.perf_counter() - started, reporter)
    seconds = time.perf_counter() - started
    facts = tuple({"size": list(size), **graph.facts} for size, graph in graphs.items())
    timings = {"estimate_s": expected, "drawing_s": seconds, "step_s": max(step_seconds.values())}
    return Stats(len(missing), graphs_made(graphs) - made, facts, timings)


def tell(outcome: Outcome, drawn: int, total: int, seconds: float, reporter: Reporter) -> None:
    """Say how a point ended, as the last of so many drawn in so many seconds."""
    name, left = Path(outcome.point.file).name, seconds / drawn * (total - drawn)
    if outcome.error is not None:
        reporter.warn(f"{name} failed: {outcome.error}")
    reporter.note(f"{drawn} of {total}: {name}" + (f", {_duration(left)} left" if left else ""))


def graphs_made(graphs: Mapping[Size, Ready]) -> int:
    """CUDA graphs captured and functions compiled in this process so far."""
    every = [one.denoiser for graph in graphs.values() for one in graph.all]
    captured = {id(denoiser): getattr(denoiser, "captures", 0) for denoiser in every}
    dynamo = sys.modules.get("torch._dynamo.utils")  # not imported: nothing was compiled
    return sum(captured.values()) + (dynamo.counters["stats"]["unique_graphs"] if dynamo else 0)


def _warm_up(engine: Engine, layout: Layout, reporter: Reporter) -> dict[Size, float]:
    """Call the UNet as often as the settings say, then once more by the clock: seconds of a step, by size."""
    seconds = {}
    with reporter.stage("warming up"):
        for size, request in layout.first_of_size.items():
            for _ in range(max(1, engine.settings.warmup) + 1):
                seconds[size] = engine.time_step(request)
    return seconds


def _draw_point(engine: Engine, layout: Layout, graphs: Mapping[Size, Ready], folder: Path, point: Point) -> Outcome:
    """Draw one point and write its picture; a foreseen failure while drawing is the outcome of this point alone."""
    request = layout.request(point.row, point.scale)
    try:
        drawing = engine.draw(request, Path(point.file).name)
    except IpaError as error:
        return Outcome(point, None, public_text(error.message))
    settings = layout.settings(engine.settings, point.row, point.scale)
    recorded = record(engine, settings, graphs[point.row.width, point.row.height], request, 0)
    saved = encode.save(folder / point.file, drawing.images[0], recorded, force=True)
    return Outcome(point, saved.sha256)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
