"""Masks in every usual style: white on black, white or coloured on transparent, coloured on black or on white."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipa_cli.images import colour

if TYPE_CHECKING:
    from PIL.Image import Image

EVERYWHERE = "as a mask it is white everywhere and has no effect"
HALF = 128  # from here on a level counts, as in diffusers' `IPAdapterMaskProcessor`


def levels(image: Image, notes: list[str]) -> Image:
    """The mask in grey, white where the reference counts: the first of these channels that separates two regions.

    Over white, the brightest of the three colours, so that a colour on black is white; the alpha channel; over white,
    the lightness, so that a colour on white is black. `notes` says which, unless it is the first.
    """
    from PIL import ImageChops

    on_white: list[str] = []
    flat = colour.on_white(image, on_white)
    red, green, blue = flat.split()
    brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    lightness = flat.convert("L")
    if _separates(brightest):
        notes += on_white
    elif image.mode == "RGBA" and _separates(image.getchannel("A")):
        notes.append("as a mask it counts where it is not transparent")
        return image.getchannel("A")
    elif _separates(lightness):
        notes += [*on_white, "as a mask it counts where it is light, not where it is coloured"]
        return lightness
    elif any(brightest.histogram()[HALF:]):
        notes += [*on_white, EVERYWHERE]
    return brightest


def _separates(grey: Image) -> bool:
    counts = grey.histogram()
    return any(counts[:HALF]) and any(counts[HALF:])
