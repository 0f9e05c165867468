"""Time of a picture with guidance in every step, in an interval of the steps, and without, and of few steps.

    python benchmarks/guidance.py [--model sdxl] [--size 1024] [--repeats 5] [--precision half]

Weights are random (`--load-format dummy`) unless --weights is given: times do not depend on them. Both graphs come
from the cache, or are compiled first. Each row is the median of `repeats` pictures after one that is not counted.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

# In place of this folder, whose files have names that libraries look for.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.pictures import HEADER, medians, opened, parser  # noqa: E402

ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("guidance in every step, 30 steps", {"steps": 30, "guidance_scale": 5.0}),
    ("guidance from 0.2 to 0.8, 30 steps", {"guidance_start": 0.2, "guidance_end": 0.8}),
    ("guidance to 0.5, 30 steps", {"guidance_start": 0.0, "guidance_end": 0.5}),
    ("no guidance, 30 steps", {"guidance_scale": 1.0}),
    ("guidance with rescale, 30 steps", {"guidance_rescale": 0.7}),
    (
        "20 steps of DPM++ 2M Karras, from 0.2 to 0.8",
        {"steps": 20, "guidance_start": 0.2, "guidance_end": 0.8, "scheduler": "DPM++ 2M Karras"},
    ),
    ("--preset lightning, 8 steps", {"preset": "lightning", "steps": 8, "guidance_scale": 0.0}),
    ("--preset lightning, 4 steps", {"preset": "lightning", "steps": 4, "guidance_scale": 0.0}),
    ("--preset dmd2, 4 steps", {"preset": "dmd2", "steps": 4, "guidance_scale": 0.0}),
    ("--preset turbo, 1 step", {"preset": "turbo", "steps": 1, "guidance_scale": 0.0}),
)
USUAL = {"steps": 30, "guidance_scale": 5.0}


def main() -> None:
    """Draw all rows with one engine and print a table."""
    arguments = parser(__doc__)
    arguments.add_argument("--precision", default="half")
    asked = arguments.parse_args()
    size = {"width": asked.size, "height": asked.size}
    with opened(asked, precision=asked.precision) as engine:
        print(
            f"{asked.model}, {asked.size}x{asked.size}, {asked.precision}, {engine.device}, random={not asked.weights}"
        )
        print(f"{HEADER} {'of all':>7}")
        whole = 0.0
        for name, row in ROWS:
            settings = {**USUAL, **size, **row}
            draw = partial(engine.draw, "a red fox in the snow", seed=1, **settings)
            steps, rate, total = medians(draw, asked.repeats)
            whole = whole or total
            print(f"{name:<48} {steps:8.3f} {rate:6.1f} {total:8.3f} {total / whole:7.0%}")


if __name__ == "__main__":
    main()
