"""Sweep folders made by hand: small pictures that drift with the scale, no model."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ipa_cli.sweep import animation, difference, journal, page, plan, sheet
from ipa_cli.sweep.journal import Outcome
from ipa_cli.sweep.plan import Point, Sweep

SETTINGS = {"model": "demo", "steps": 4, "guidance_scale": 5.0, "negative_prompt": "", "device": "cpu"}
FAILURE = "the picture came out as NaN <b>or</b> infinity"


@dataclass(frozen=True)
class Drawn:
    """A sweep with its pictures on disk."""

    folder: Path
    sweep: Sweep
    outcomes: dict[int, Outcome]
    references: list[Image.Image]


def make(
    scales: tuple[float, ...] = (0.0, 0.5, 1.0),
    references: tuple[str, ...] = ("cat.png", "dog.png"),
    prompts: tuple[str, ...] = ("a red fox",),
    sizes: tuple[tuple[int, int], ...] = ((64, 64),),
    seeds: tuple[int, ...] = (7,),
) -> Sweep:
    return plan.make(scales, references, prompts, sizes, seeds)


def picture(point: Point, scale: float) -> Image.Image:
    """A bar that grows with the scale, in a colour of the row."""
    row = point.row
    image = Image.new("RGB", (row.width, row.height), (230, 225, 210))
    colour = ((40, 90, 200), (210, 80, 60), (60, 150, 90))[row.number % 3]
    ImageDraw.Draw(image).rectangle((0, row.height // 4, 4 + (row.width - 8) * scale, row.height * 3 // 4), colour)
    return image


def draw(folder: Path, sweep: Sweep, failed: Collection[int] = (), frozen: Collection[int] = ()) -> Drawn:
    """Write pictures and journal; points in `frozen` get the picture of scale 0."""
    with journal.locked(folder):
        outcomes = journal.completed(folder, sweep)
        journal.begin(folder, journal.describe(sweep, SETTINGS), sweep, outcomes, force=False)
        for point in sweep.points:
            if point.number not in outcomes:
                outcomes[point.number] = draw_point(
                    folder, sweep, point, point.number in failed, point.number in frozen
                )
        journal.write_results(folder, sweep, outcomes)
    names = range(len(sweep.references))
    return Drawn(folder, sweep, outcomes, [Image.new("RGB", (90, 60), (40 * n, 90, 160)) for n in names])


def draw_point(folder: Path, sweep: Sweep, point: Point, fails: bool = False, frozen: bool = False) -> Outcome:
    if fails:
        outcome = Outcome(point, None, FAILURE)
    else:
        path = folder / point.file
        picture(point, 0.0 if frozen else point.scale).save(path)
        outcome = Outcome(point, hashlib.sha256(path.read_bytes()).hexdigest())
    journal.append(folder, sweep, outcome)
    return outcome


def finish(drawn: Drawn, settings: Mapping[str, Any] = SETTINGS) -> Path:
    """Write sheet, animations and page; returns the page."""
    folder, sweep, outcomes = drawn.folder, drawn.sweep, drawn.outcomes
    changes, frozen = difference.compare(folder, outcomes)
    for number, row in difference.completed_rows(outcomes).items():
        journal.write(folder / animation.file_name(sweep, number), animation.animate(folder, row))
    journal.write(folder / journal.SHEET, sheet.draw(folder, sweep, outcomes, drawn.references, "demo"))
    rendered = page.render(folder, sweep, outcomes, drawn.references, settings, changes, frozen)
    journal.write(folder / journal.PAGE, rendered)
    return folder / journal.PAGE


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
