"""Contrast adaptive sharpening: AMD's FidelityFX CAS, as ComfyUI_IPAdapter_plus applies it to references."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def sharpened(picture: Image, amount: float) -> Image:
    """The picture sharpened by an amount from 0, nothing, to 1; less where the contrast is high already."""
    if not amount:
        return picture
    import numpy as np
    from PIL import Image

    padded = np.pad(np.asarray(picture, dtype=np.float32) / 255, ((1, 1), (1, 1), (0, 0)))
    height, width = picture.height, picture.width
    around = [[padded[y : y + height, x : x + width] for x in range(3)] for y in range(3)]
    middle = around[1][1]
    cross = [around[0][1], around[1][0], around[1][2], around[2][1]]
    corners = [around[0][0], around[0][2], around[2][0], around[2][2]]
    least = np.minimum.reduce([middle, *cross]) + np.minimum.reduce(corners)
    most = np.maximum.reduce([middle, *cross]) + np.maximum.reduce(corners)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = -np.sqrt(np.minimum(least, 2 - most) / most) * (amount * (1 / 5 - 1 / 8) + 1 / 8)
        made = np.nan_to_num((sum(cross) * weight + middle) / (1 + 4 * weight))
    return Image.fromarray((made.clip(0, 1) * 255).round().astype(np.uint8))
