"""Time of pictures from noise, over a picture, with a part redrawn and with a border; counts what is captured for them.

    python benchmarks/img2img.py [--model sdxl] [--size 1024] [--repeats 5] [--backend auto]

Weights are random (`--load-format dummy`) unless --weights is given: times do not depend on them. The graph comes from
the cache, or is compiled first. Each row is the median of `repeats` pictures, each over a picture not seen before.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

# In place of this folder, whose files have names that libraries look for.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import ipa_cli  # noqa: E402
from benchmarks.pictures import HEADER, medians, opened, parser  # noqa: E402

ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("from noise, 30 steps", {}),
    ("over a picture, strength 0.3", {"strength": 0.3}),
    ("over a picture, strength 0.6", {"strength": 0.6}),
    ("over a picture, strength 1", {"strength": 1.0}),
    ("a half redrawn, strength 1", {"inpaint": True, "strength": 1.0}),
    ("a half redrawn, strength 0.6, blur 4", {"inpaint": True, "strength": 0.6, "mask_blur": 4.0}),
    ("a half redrawn, strength 0.6, UniPC", {"inpaint": True, "strength": 0.6, "scheduler": "unipc"}),
)


def main() -> None:
    """Draw all rows with one engine and print a table."""
    arguments = parser(__doc__)
    arguments.add_argument("--backend", default="auto")
    asked = arguments.parse_args()
    size, random = (asked.size, asked.size), np.random.default_rng(0)
    mask = Image.new("L", size)
    mask.paste(255, (asked.size // 2, 0, *size))

    def draw(engine: ipa_cli.Engine, row: dict[str, Any]) -> Any:
        settings = {"steps": 30, "guidance_scale": 5.0, "width": asked.size, "height": asked.size, **row}
        if settings.pop("inpaint", False):
            settings["inpaint_mask"] = mask
        if row:
            coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            settings["init_image"] = coarse.resize(size, Image.Resampling.BICUBIC)
        return engine.draw("a red fox in the snow", seed=1, **settings)

    with opened(asked, backend=asked.backend) as engine:
        print(f"{asked.model}, {asked.size}x{asked.size}, {engine.device}, random={not asked.weights}")
        print(f"{HEADER} {'peak GiB':>9} {'captured':>9}")
        captures = 0
        for name, row in ROWS:
            steps, rate, total = medians(partial(draw, engine, row), asked.repeats)
            inner = engine._opened()
            now = sum(getattr(ready.denoiser, "captures", 0) for ready in inner._denoisers.opened)
            peak = engine.memory()["peak_gib"]
            print(f"{name:<48} {steps:8.3f} {rate:6.1f} {total:8.3f} {peak:9.2f} {now - captures:9}")
            captures = now


if __name__ == "__main__":
    main()
