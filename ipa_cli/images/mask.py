"""Masks as people paint them: white on black, white or coloured on transparent, coloured on black or on white."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipa_cli.images import colour

if TYPE_CHECKING:
    from PIL.Image import Image

HALF = 128  # from here on a level counts, as in diffusers' `IPAdapterMaskProcessor`


def levels(image: Image, notes: list[str]) -> Image:
    """Where the reference counts, in grey: the first of these that tells two regions apart.

    On white, the brightest of the three channels, so that a colour on black is white; the alpha; on white, the
    lightness, so that a colour on white is black. `notes` gets which one it was, unless it was the first.
    """
    from PIL import ImageChops

    on_white: list[str] = []
    flat = colour.on_white(image, on_white)
    red, green, blue = flat.split()
    brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    lightness = flat.convert("L")
    if _tells_apart(brightest):
        notes += on_white
    elif image.mode == "RGBA" and _tells_apart(image.getchannel("A")):
        notes.append("as a mask it counts where it is not transparent")
        return image.getchannel("A")
    elif _tells_apart(lightness):
        notes += [*on_white, "as a mask it counts where it is light, not where it is coloured"]
        return lightness
    elif any(brightest.histogram()[HALF:]):
        notes += [*on_white, "as a mask it is white everywhere, and hides nothing"]
    return brightest


def _tells_apart(grey: Image) -> bool:
    counts = grey.histogram()
    return any(counts[:HALF]) and any(counts[HALF:])
