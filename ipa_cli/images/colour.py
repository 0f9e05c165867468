"""Pixels of every kind as plain RGB, 8 bits a channel."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def plain_rgb(image: Image, notes: list[str]) -> Image:
    """The picture in RGB and without its metadata; `notes` gets what people should know of it."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    elif image.mode == "CMYK":
        image = _from_cmyk(image, notes)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            notes.append("transparent parts are shown on white")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    image.info = {}
    return image


def _eight_bits(image: Image) -> Image:
    # Pillow's own conversion clips at 255. Levels that are neither 16 bits nor 0..1 have no agreed white.
    import numpy as np
    from PIL import Image

    levels = np.asarray(image).astype(np.float64)
    levels[~np.isfinite(levels)] = 0
    low, high = 0.0, 1.0 if image.mode == "F" else 65535.0
    if levels.min() < low or levels.max() > high:
        low, high = levels.min(), levels.max()
    levels -= low
    levels *= 255 / (high - low or 1)
    return Image.fromarray(levels.round().astype(np.uint8))


def _from_cmyk(image: Image, notes: list[str]) -> Image:
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ImportError):  # damaged, for other colours, or Pillow without LittleCMS
        notes.append("its colour profile could not be used")
        return image.convert("RGB")
    assert converted is not None  # only when converting in place
    return converted
