"""The settings of a second pass at a larger size (`--hires`), and the names of its upscalers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ipa_cli.config.checks import MAX_SIDE, SIDE_STEP, Choice, between, parsed_by, side
from ipa_cli.config.setting import PICTURE, setting

LEAST, MOST = 1.0, 4.0
STRENGTH = 0.55
LATENT, LANCZOS = "latent", "lanczos"
_SIZE = re.compile(r"\s*(\d{1,5})\s*[x×]\s*(\d{1,5})\s*", re.ASCII)
_EXPECTED = "expected a factor such as 1.5, or width x height such as 1536x1536"


@dataclass(frozen=True)
class Upscaler:
    """How the first picture is enlarged: its latents by a mode of torch's `interpolate`, or its pixels by Pillow.

    `a1111` is A1111's name of it; `mode` is torch's, or that of `PIL.Image.Resampling` in lower case.
    """

    a1111: str
    mode: str
    latent: bool = True
    antialias: bool = False


# The latent ones are those of A1111's `modules/shared.py`; "lanczos" and "nearest" are in its list of upscalers too.
UPSCALERS: Mapping[str, Upscaler] = {
    LATENT: Upscaler("Latent", "bilinear"),
    "latent-antialiased": Upscaler("Latent (antialiased)", "bilinear", antialias=True),
    "latent-bicubic": Upscaler("Latent (bicubic)", "bicubic"),
    "latent-bicubic-antialiased": Upscaler("Latent (bicubic antialiased)", "bicubic", antialias=True),
    "latent-nearest": Upscaler("Latent (nearest)", "nearest"),
    "latent-nearest-exact": Upscaler("Latent (nearest-exact)", "nearest-exact"),
    LANCZOS: Upscaler("Lanczos", "lanczos", latent=False),
    "bicubic": Upscaler("Bicubic", "bicubic", latent=False),
    "nearest": Upscaler("Nearest", "nearest", latent=False),
}


def of_a1111(name: str) -> str | None:
    """Our name of an upscaler of A1111; None for one that is not here, such as a network."""
    return next((ours for ours, one in UPSCALERS.items() if one.a1111.casefold() == name.strip().casefold()), None)


def parse(text: str) -> float | tuple[int, int]:
    """A factor, or width and height in pixels. Raises ValueError, which says what is wrong."""
    if found := _SIZE.fullmatch(text.lower()):
        size = int(found[1]), int(found[2])
        for pixels in size:
            if problem := side(pixels):
                raise ValueError(f"{pixels}: {problem}")
        return size
    try:
        factor = float(text)
    except ValueError:
        raise ValueError(_EXPECTED) from None
    if not LEAST <= factor <= MOST:
        raise ValueError(f"expected a factor from {LEAST:g} to {MOST:g}")
    return factor


check = parsed_by(parse)


def size_of(text: str, width: int, height: int) -> tuple[int, int]:
    """The size of the second pass over a picture of this one: sides by a factor are cut to multiples of 8."""
    asked = parse(text)
    if isinstance(asked, tuple):
        return asked
    enlarged_width, enlarged_height = (
        int(round(asked * pixels, 6)) // SIDE_STEP * SIDE_STEP for pixels in (width, height)
    )
    return enlarged_width, enlarged_height


def from_a1111(scale: float, resize: tuple[int, int], first: tuple[int | None, int | None]) -> str:
    """What A1111's `hr_scale`, or `hr_resize_x` and `hr_resize_y` of which one may be 0, mean over a picture.

    Raises ValueError where one side is 0 and the size of the picture is not known.
    """
    width, height = resize
    if not width and not height:
        return f"{scale:g}"
    if not (width and height):
        if not (first[0] and first[1]):
            raise ValueError("one side of the size is 0, and nothing says the size of the first picture")
        width, height = width or height * first[0] // first[1], height or width * first[1] // first[0]
    width, height = (min(pixels // SIDE_STEP * SIDE_STEP, MAX_SIDE) for pixels in (width, height))
    return f"{width}x{height}"


HIRES = setting(
    PICTURE,
    "draw over the picture again at a larger size: a factor such as 1.5, or width x height",
    None,
    check,
    metavar="SIZE",
    numeric=True,
)
HIRES_STRENGTH = setting(PICTURE, "how much the second pass of --hires redraws, 0 to 1", STRENGTH, between(0, 1))
HIRES_STEPS = setting(
    PICTURE, "steps that the second pass takes [default: --steps times its strength]", None, between(1, 1000)
)
HIRES_UPSCALER = setting(
    PICTURE,
    f"how the picture is enlarged before the second pass: {', '.join(UPSCALERS)}",
    LATENT,
    Choice(tuple(UPSCALERS)),
    metavar="NAME",
)
