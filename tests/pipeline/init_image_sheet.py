"""Makes the pictures of docs/img2img.md with the miniature: `python -m tests.pipeline.init_image_sheet docs`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import ipa_cli as ipa

SIDE, GAP, HEIGHT = 256, 6, 192
COMMON = {"seed": 2, "steps": 25, "guidance_scale": 3.5, "scale": 0.0}


def strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures beside each other."""
    small = [one.resize((round(one.width * HEIGHT / one.height), HEIGHT), Image.Resampling.LANCZOS) for one in pictures]
    sheet = Image.new("RGB", (sum(one.width for one in small) + GAP * (len(small) - 1), HEIGHT), "white")
    left = 0
    for one in small:
        sheet.paste(one, (left, 0))
        left += one.width + GAP
    return sheet


def main(folder: Path) -> None:
    """Write img2img.jpg, inpaint.jpg and outpaint.jpg into the folder."""
    with tempfile.TemporaryDirectory() as cache, ipa.open(cache_dir=cache, backend="eager", progress=False) as engine:
        init = engine.draw("a large star in the middle", width=SIDE, height=SIDE, **COMMON).image
        heart = "a large heart in the middle"
        over = [engine.draw(heart, init_image=init, strength=strength, **COMMON).image for strength in (0.4, 0.6, 0.8)]
        mask = Image.new("L", init.size)
        mask.paste(255, (SIDE // 2, 0, SIDE, SIDE))
        within = engine.draw(heart, init_image=init, inpaint_mask=mask, mask_blur=4, **COMMON).image
        around = engine.draw("three circles", init_image=init, pad="left=128,right=128", mask_blur=8, **COMMON).image
    for name, pictures in (
        ("img2img", [init, *over]),
        ("inpaint", [init, mask.convert("RGB"), within]),
        ("outpaint", [init, around]),
    ):
        strip(pictures).save(folder / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
