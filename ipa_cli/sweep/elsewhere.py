"""Drawing the points of a sweep with engines in other processes, such as the actors of a Ray cluster.

Each point is handed out as settings of its own, with which `ipa generate` draws it; the pictures are written there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_cli.config import FIELDS, Settings
from ipa_cli.config.units import plural
from ipa_cli.errors import RESUME_HINT, IpaError
from ipa_cli.result import Reporter
from ipa_cli.sweep import draw, journal
from ipa_cli.sweep.draw import Stats
from ipa_cli.sweep.journal import Outcome
from ipa_cli.sweep.layout import OF_A_SIZE, Layout, Size, with_engines
from ipa_cli.sweep.plan import Point

DRAWN_BY = ("dtype", "device", "backend", "graph", "torch")  # `record.drawn_by`


@dataclass(frozen=True)
class PointJob:
    """A point to draw: its number, the name of its file without suffix, and its own settings by name."""

    number: int
    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Callbacks:
    """`done(number, sha256, error)` is called for each point, `drawn_by(size, facts)` before the first of a size."""

    done: Callable[[int, str | None, str | None], None]
    drawn_by: Callable[[Size, Mapping[str, Any]], None]


# Draws jobs into a folder with settings that they have in common.
Elsewhere = Callable[[Settings, Path, Iterator[PointJob], Callbacks, Reporter], None]


def draw_points(
    elsewhere: Elsewhere,
    settings: Settings,
    layout: Layout,
    folder: Path,
    described: dict[str, Any],
    missing: Sequence[Point],
    outcomes: dict[int, Outcome],
    reporter: Reporter,
) -> tuple[dict[str, Any], Stats]:
    """Draw the `missing` points into `folder`, add them to `outcomes`, and complete what `sweep.json` describes."""
    sweep, kinds, told = layout.sweep, _kinds(described, layout), set[str]()
    began, drawn = time.perf_counter(), 0

    def done(number: int, sha256: str | None, error: str | None) -> None:
        nonlocal drawn
        drawn += 1
        outcome = Outcome(sweep.points[number - 1], sha256, error)
        journal.append(folder, sweep, outcome)
        outcomes[number] = outcome
        draw.tell(outcome, drawn, len(missing), time.perf_counter() - began, reporter)

    def drawn_by(size: Size, facts: Mapping[str, Any]) -> None:
        nonlocal described
        for difference in journal.changed(kinds.setdefault(size, facts), facts):
            if difference not in told:
                told.add(difference)
                reporter.warn(f"pictures of this sweep may differ in rounding: {difference}")
        if len(kinds) == len(sweep.sizes):
            described = with_engines(described, [kinds[size] for size in sweep.sizes])
            journal.write_description(folder, described)

    reporter.note(f"{plural(len(missing), 'picture')} to draw, {plural(layout.base.steps_taken, 'step')} each")
    elsewhere(settings, folder, _jobs(settings, layout, missing), Callbacks(done, drawn_by), reporter)
    if left := sum(point.number not in outcomes for point in missing):
        raise IpaError(f"{plural(left, 'picture')} came back without a result", RESUME_HINT)
    return described, Stats(drawn, None, (), {"drawing_s": time.perf_counter() - began})


def _jobs(settings: Settings, layout: Layout, points: Sequence[Point]) -> Iterator[PointJob]:
    for point in points:
        own = layout.settings(settings, point.row, point.scale)
        values = {name: getattr(own, name) for name in FIELDS if getattr(own, name) != getattr(settings, name)}
        yield PointJob(point.number, Path(point.file).stem, values)


def _kinds(described: Mapping[str, Any], layout: Layout) -> dict[Size, Mapping[str, Any]]:
    """What drew each size in an earlier run, if that came so far."""
    sizes = layout.sweep.sizes
    lists = [described.get(name) for name in OF_A_SIZE]
    if not all(isinstance(one, list) and len(one) == len(sizes) for one in lists) or "torch" not in described:
        return {}
    facts = {name: described.get(name) for name in DRAWN_BY}
    return {
        size: {name: value[at] if name in OF_A_SIZE else value for name, value in facts.items()}  # type: ignore[index]
        for at, size in enumerate(sizes)
    }
