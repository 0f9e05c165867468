"""Reference pictures as the squares that an image encoder sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipa_cli.config.modes import TILES
from ipa_cli.images import tiles
from ipa_cli.images.sharpening import sharpened

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# The mean and standard deviation of CLIP's training pictures, by which every IP-Adapter encoder normalises.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def squares(picture: Image, side: int, fit: str = "pad", sharpening: float = 0.0) -> list[Image]:
    """A picture as squares: whole and padded with CLIP's grey, cropped, stretched, or several tiles of it.

    Cropping is that of transformers' `CLIPImageProcessor`, which diffusers uses.
    """
    from PIL import Image, ImageOps

    bicubic, square = Image.Resampling.BICUBIC, (side, side)
    if fit == TILES:
        return [tile.resize(square, bicubic) for tile in tiles.cut(picture, sharpening)]
    if fit == "pad":
        fitted = ImageOps.pad(picture, square, bicubic, color=tuple(round(255 * mean) for mean in CLIP_MEAN))
    elif fit == "stretch":
        fitted = picture.resize(square, bicubic)
    else:
        short = min(picture.size)
        width, height = (int(side * length / short) for length in picture.size)
        left, top = (width - side) // 2, (height - side) // 2
        fitted = picture.resize((width, height), bicubic).crop((left, top, left + side, top + side))
    return [sharpened(fitted, sharpening)]


def pixel_values(square: Image) -> Tensor:
    """A square as CLIP sees it, (3, side, side)."""
    import numpy as np
    import torch

    values = (np.asarray(square, dtype=np.float32) / 255 - CLIP_MEAN) / CLIP_STD
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)
