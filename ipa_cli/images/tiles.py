"""A reference cut into tiles, each of which acts on its place in the picture: ComfyUI's node IPAdapterTiled.

A picture that is nearly square becomes two by two tiles, another up to four along its longer side; what is longer than
four to one loses its ends. Tiles overlap where its length is no multiple of theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ipa_cli.images.sharpening import sharpened

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 256  # pixels of a tile
MOST = 4
NEARLY_SQUARE = (0.75, 1.33)  # height to width, both excluded


class Area(NamedTuple):
    """A part of a picture, as fractions of its width and height."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut, in pixels: the part of it that is used, the size to which this is brought, and what of that
    is shown. `corners` are the upper left corners of the tiles in what is shown, row by row.
    """

    used: tuple[int, int, int, int]
    size: tuple[int, int]
    shown: tuple[int, int, int, int]
    corners: tuple[tuple[int, int], ...]

    @property
    def areas(self) -> tuple[Area, ...]:
        """Where each tile lies."""
        left, top, right, bottom = self.shown
        width, height = right - left, bottom - top
        return tuple(Area(x / width, y / height, (x + SIDE) / width, (y + SIDE) / height) for x, y in self.corners)


def of_size(width: int, height: int) -> Tiling:
    """How a picture of so many pixels is cut."""
    if NEARLY_SQUARE[0] < height / width < NEARLY_SQUARE[1]:
        used, size = _middle((width, height), (min(width, height),) * 2), (2 * SIDE, 2 * SIDE)
    else:
        used = (0, 0, width, height)
        size = (int(SIDE * width / height), SIDE) if height < width else (SIDE, int(SIDE * height / width))
    shown = min(size[0], MOST * SIDE), min(size[1], MOST * SIDE)
    across, down = map(_starts, shown)
    return Tiling(used, size, _middle(size, shown), tuple((left, top) for top in down for left in across))


def cut(picture: Image, sharpening: float = 0.0) -> list[Image]:
    """The tiles of a picture, 256 x 256 pixels each, row by row; sharpened before it is cut."""
    from PIL.Image import Resampling

    tiling = of_size(*picture.size)
    whole = picture.crop(tiling.used).resize(tiling.size, Resampling.LANCZOS).crop(tiling.shown)
    whole = sharpened(whole, sharpening)
    return [whole.crop((left, top, left + SIDE, top + SIDE)) for left, top in tiling.corners]


def _middle(size: tuple[int, int], part: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box of a part of a picture in its middle."""
    left, top = (round((full - some) / 2) for full, some in zip(size, part, strict=True))
    return left, top, left + part[0], top + part[1]


def _starts(length: int) -> list[int]:
    """Where tiles begin that cover a length together, the first at its beginning and the last at its end."""
    count = math.ceil(length / SIDE)
    overlap = (count * SIDE - length) / max(1, count - 1)
    return [int(number * (SIDE - overlap)) for number in range(count)]
