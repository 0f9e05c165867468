"""A picture to begin with, brought to the size that is drawn: cut, scaled, padded, and what of it is redrawn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ipa_cli.config.checks import SIDE_STEP
from ipa_cli.config.padding import Padding
from ipa_cli.errors import IpaError
from ipa_cli.images import proportions
from ipa_cli.images.mask import HALF

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

    from ipa_cli.images.reference import Reference


@dataclass(frozen=True)
class InitImage:
    """What drawing begins with: `image` at the size of the picture.

    `area` is as large, in grey: white is redrawn, black comes back as it is, grey is between; None for all of it.
    """

    image: Image = field(compare=False)
    area: Image | None = field(compare=False)
    digest: str  # of both

    def over(self, drawn: Image) -> Image:
        """A picture that was drawn with this one where it is not redrawn, pixel for pixel."""
        from PIL import Image

        return drawn if self.area is None else Image.composite(drawn, self.image, self.area)


def make(given: Reference, mask: Reference | None, size: tuple[int, int], padding: Padding, blur: float) -> InitImage:
    """The picture `given`, without the border inside of `size`, scaled and cut to its middle where it has another size.

    The border is white in the area; it is filled with the pixels of the edge, blurred towards the outside. `blur` is
    the standard deviation in pixels by which the edge of the area is softened.
    """
    from PIL import ImageFilter

    inner = size[0] - padding.width, size[1] - padding.height
    image = fitted(given.image, inner)
    area = None if mask is None else fitted(_as_large(mask.image, given.image), inner)
    if any(padding):
        image, area = _padded(image, area, size, padding)
    if area is not None and blur:
        area = area.filter(ImageFilter.GaussianBlur(blur))
    content = image.tobytes() + (b"" if area is None else area.tobytes())
    return InitImage(image, area, hashlib.sha256(f"{size} {area is None} ".encode() + content).hexdigest())


def size_of(given: Reference, padding: Padding, most_pixels: int, longest: int) -> tuple[int, int]:
    """The size to draw a picture at, with its border: its own, cut to multiples of 8.

    One of more than `most_pixels`, or with a side of more than `longest`, is scaled to a fourth of them or less.
    """
    width, height = given.width, given.height
    scale = min(1.0, longest / max(width, height))
    if width * height > most_pixels:
        scale = min(scale, (most_pixels / 4 / (width * height)) ** 0.5)
    width, height = (round(side * scale) // SIDE_STEP * SIDE_STEP for side in (width, height))
    return width + padding.width, height + padding.height


def fitted(image: Image, size: tuple[int, int], how: Resampling | None = None) -> Image:
    """A picture at another size, proportions kept: its middle, scaled where it differs by more than a cut of 7 pixels.

    So the pixels of one whose sides are no multiples of 8 stay as they are. Scaled by Lanczos unless `how` is given.
    """
    from PIL import Image, ImageOps

    spare = image.width - size[0], image.height - size[1]
    if all(0 <= one < SIDE_STEP for one in spare):
        left, top = spare[0] // 2, spare[1] // 2
        return image.crop((left, top, left + size[0], top + size[1]))
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS if how is None else how)


def check_mask(mask: Reference, given: Reference) -> None:
    """Raise IpaError unless a mask has the proportions of its picture and is white somewhere."""
    if not any(mask.image.histogram()[HALF:]):
        raise IpaError(
            f"the inpaint mask {mask.source} is dark everywhere: nothing would be redrawn",
            "make it white, or at least lighter than half, where the picture is redrawn",
        )
    if proportions.differ((mask.width, mask.height), (given.width, given.height)):
        raise IpaError(
            f"the inpaint mask {mask.source} is {mask.width}x{mask.height}, its picture {given.width}x{given.height}",
            proportions.of_mask(given.width, given.height),
        )


def _as_large(mask: Image, image: Image) -> Image:
    from PIL import Image

    return mask if mask.size == image.size else mask.resize(image.size, Image.Resampling.BILINEAR)


def _padded(image: Image, area: Image | None, size: tuple[int, int], padding: Padding) -> tuple[Image, Image]:
    import numpy as np
    from PIL import Image, ImageFilter

    place, border = (padding.left, padding.top), Image.new("L", size, 255)
    border.paste(0, (*place, place[0] + image.width, place[1] + image.height))
    sides = ((padding.top, padding.bottom), (padding.left, padding.right), (0, 0))
    filled = Image.fromarray(np.pad(np.asarray(image), sides, mode="edge"))
    blurred = filled.filter(ImageFilter.GaussianBlur(max(padding) / 4))
    whole = Image.composite(blurred, filled, border)
    if area is not None:
        border.paste(area, place)
    return whole, border
