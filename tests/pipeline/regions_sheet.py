"""Makes the pictures of docs/hires.md and docs/regions.md: `python -m tests.pipeline.regions_sheet docs`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

import ipa_cli as ipa
from tests.pipeline.init_image_sheet import strip

SIDE, SMALL = 256, 128
COMMON = {"seed": 7, "steps": 25, "guidance_scale": 4.0}
REFERENCE = Path(ipa.__file__).parent / "demo/reference.png"


def part(left: int, right: int) -> Image.Image:
    """A mask of the columns between."""
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (left, 0, right, SIDE))
    return mask


def hires(engine: ipa.Engine) -> list[Image.Image]:
    """The small picture, enlarged by Pillow, and by second passes over its pixels and its latents."""
    star = {**COMMON, "scale": 0.0, "width": SMALL, "height": SMALL}
    first = engine.draw("a large red star in the middle", **star).image
    again = [
        engine.draw("a large red star in the middle", hires="2", hires_upscaler=name, hires_strength=much, **star).image
        for name, much in (("lanczos", 0.5), ("latent", 0.7))
    ]
    return [first, first.resize(again[0].size, Image.Resampling.LANCZOS), *again]


def regions(engine: ipa.Engine) -> list[Image.Image]:
    """One prompt; another in the right half; three in thirds; and a reference in the left half of that of two."""
    star, half = {**COMMON, "scale": 0.0, "width": SIDE, "height": SIDE}, SIDE // 2
    red, blue, green = (f"a large {colour} star in the middle" for colour in ("red", "blue", "green"))
    two = [{"mask": part(half, SIDE), "prompt": blue}]
    three = [{"mask": part(110, 146), "prompt": green}, {"mask": part(146, SIDE), "prompt": blue}]
    styled = {**star, "scale": 0.8, "image": REFERENCE, "mask": part(0, half)}
    return [
        engine.draw(red, **star).image,
        engine.draw(red, region=two, **star).image,
        engine.draw(red, region=three, **star).image,
        engine.draw(red, region=two, **styled).image,
    ]


def main(folder: Path) -> None:
    """Write hires.jpg and regions.jpg into the folder."""
    with tempfile.TemporaryDirectory() as cache, ipa.open(cache_dir=cache, backend="eager", progress=False) as engine:
        for name, pictures in (("hires", hires(engine)), ("regions", regions(engine))):
            strip(pictures).save(folder / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
