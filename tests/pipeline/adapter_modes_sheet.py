"""Makes the pictures of docs/adapter-modes.md: `python -m tests.pipeline.adapter_modes_sheet docs`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import ipa_cli as ipa
from ipa_cli.config.modes import COMBINES, INSTANTSTYLE, WEIGHT_TYPES
from ipa_cli.models.plan import DEMO

SIDE, TEXT, GAP = 128, 16, 6
COMMON = {"prompt": "a large star in the middle", "seed": 2, "steps": 25, "scale": 1.0, "width": SIDE, "height": SIDE}
# Of the names of one pattern in SDXL's layout one is shown.
MODES = (*INSTANTSTYLE, *(name for name in WEIGHT_TYPES if name not in ("linear", "style-transfer", "composition")))


def sheet(pictures: Mapping[str, Image.Image], columns: int) -> Image.Image:
    """The pictures in rows, each with its name below it."""
    rows = -(-len(pictures) // columns)
    made = Image.new("RGB", (columns * (SIDE + GAP) - GAP, rows * (SIDE + TEXT + GAP) - GAP), "white")
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(11)
    for number, (name, picture) in enumerate(pictures.items()):
        row, column = divmod(number, columns)
        left, top = column * (SIDE + GAP), row * (SIDE + TEXT + GAP)
        made.paste(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top))
        draw.text((left + SIDE // 2, top + SIDE + 1), name, "black", font, anchor="ma")
    return made


def grounds() -> tuple[Image.Image, Image.Image, Image.Image]:
    """References: plain blue, plain orange, and one that is half of each."""
    blue, orange = (Image.new("RGB", (SIDE, SIDE), colour) for colour in ("#3060d0", "#f09020"))
    wide = Image.new("RGB", (2 * SIDE, SIDE))
    wide.paste(blue, (0, 0))
    wide.paste(orange, (SIDE, 0))
    return blue, orange, wide


def main(folder: Path) -> None:
    """Write modes.jpg and combine.jpg into the folder."""
    with tempfile.TemporaryDirectory() as cache, ipa.open(cache_dir=cache, backend="eager", progress=False) as engine:
        modes = {"the reference": Image.open(DEMO / "reference.png")}
        modes |= {mode: engine.draw(**COMMON, ip_mode=mode).image for mode in MODES}
        blue, orange, wide = grounds()
        both = {"first": blue, "second": orange}
        both |= {how: engine.draw(**COMMON, image=[blue, orange], image_combine=how).image for how in COMBINES}
        both["negative: second"] = engine.draw(**COMMON, image=blue, negative_image=orange).image
        both |= {"wide": wide.resize((SIDE, SIDE)), "tiles": engine.draw(**COMMON, image=wide, fit="tiles").image}
    sheet(modes, 6).save(folder / "modes.jpg", quality=88)
    sheet(both, 5).save(folder / "combine.jpg", quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
