"""Whether the scale has an effect: how much the pictures of a row differ, and which are identical."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.sweep.journal import Outcome
from ipa_cli.sweep.plan import format_scale

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Change:
    """From one scale of a row to the next.

    `mean` is the mean absolute difference over all channels, 0 to 255; `share` the fraction of pixels that changed.
    """

    row: int
    before: float
    after: float
    mean: float
    share: float


@dataclass(frozen=True)
class Frozen:
    """Scales of one row that gave the same picture."""

    row: int
    scales: tuple[float, ...]

    def __str__(self) -> str:
        *others, last = map(format_scale, self.scales)
        return f"row {self.row}: the scales {', '.join(others)} and {last} gave the same picture"


def compare(folder: Path, outcomes: Mapping[int, Outcome]) -> tuple[tuple[Change, ...], tuple[Frozen, ...]]:
    """The changes between neighbouring scales of every row, and identical pictures; failed points are skipped."""
    changes: list[Change] = []
    frozen: list[Frozen] = []
    for row in completed_rows(outcomes).values():
        scales_of = defaultdict(list)
        before, before_pixels = None, None
        for outcome in row:
            pixels = _pixels(folder / outcome.point.file)
            scales_of[hashlib.sha256(pixels.tobytes()).digest()].append(outcome.point.scale)
            if before is not None and before_pixels is not None:
                mean, share = difference(before_pixels, pixels)
                number = outcome.point.row.number
                changes.append(Change(number, before.point.scale, outcome.point.scale, mean, share))
            before, before_pixels = outcome, pixels
        frozen += [Frozen(row[0].point.row.number, tuple(same)) for same in scales_of.values() if len(same) > 1]
    return tuple(changes), tuple(frozen)


def difference(before: NDArray[Any], after: NDArray[Any]) -> tuple[float, float]:
    """Mean absolute difference and share of changed pixels of two (h, w, 3) pictures of 8 bits."""
    import numpy as np

    distance = np.abs(before.astype(np.int16) - after)
    return float(distance.mean()), float(distance.any(axis=-1).mean())


def completed_rows(outcomes: Mapping[int, Outcome]) -> dict[int, Sequence[Outcome]]:
    """The outcomes that have a picture, by row number, in the order of the scales."""
    rows: dict[int, list[Outcome]] = defaultdict(list)
    for number in sorted(outcomes):
        outcome = outcomes[number]
        if outcome.error is None:
            rows[outcome.point.row.number].append(outcome)
    return dict(rows)


def _pixels(path: Path) -> NDArray[Any]:
    import numpy as np
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB"))
