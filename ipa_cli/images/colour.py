"""Convert pixels of every mode to sRGB with 8 bits per channel, as browsers show them.

A colour profile is applied; without one, Adobe RGB is recognized by EXIF's interoperability index R03. As in Pillow, a
PNG's gAMA and cHRM chunks are ignored: nearly all of them have sRGB's values.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

_INTEROP, _INTEROP_INDEX = 0xA005, 1
_SRGB_GAMMA = 0.45455


def to_srgb(image: Image, notes: list[str]) -> Image:
    """The picture in sRGB and without its metadata: RGB, or RGBA where something may be transparent.

    `notes` gets a line for everything the user should know.
    """
    colours, alpha = _split_alpha(image)
    profile = image.info.get("icc_profile")
    if profile is None and colours.mode == "RGB" and _is_adobe_rgb(image):
        profile = _adobe_rgb()
    elif profile is None and "srgb" not in image.info:
        gamma = image.info.get("gamma", _SRGB_GAMMA)
        if abs(gamma - _SRGB_GAMMA) > 0.01:
            notes.append(f"its gamma of {gamma:g} is not applied")
    if profile is not None:
        colours = _by_profile(colours, profile, notes)
    colours = colours.convert("RGB")
    if alpha is not None:
        colours.putalpha(alpha)
    colours.info = {}
    return colours


def on_white(image: Image, notes: list[str]) -> Image:
    """An RGB or RGBA picture as RGB: composed over white."""
    from PIL import Image

    if image.mode != "RGBA":
        return image
    if image.getchannel("A").getextrema() != (255, 255):
        notes.append("transparent parts are shown on white")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _split_alpha(image: Image) -> tuple[Image, Image | None]:
    """The colours in L, RGB or CMYK, and the alpha channel."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image), None
    if image.mode == "CMYK":
        return image, None
    colours = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if not image.has_transparency_data:
        return image.convert(colours), None
    image = image.convert(colours + "A")
    return image.convert(colours), image.getchannel("A")


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


def _by_profile(image: Image, profile: Any, notes: list[str]) -> Image:
    """`image` in sRGB, with the perceptual rendering intent, as in browsers."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "L" and source.profile.xcolor_space == "RGB ":
            image = image.convert("RGB")  # grey pictures often keep the profile they had in colour
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ImportError):
        # Damaged, for other colours, or a Pillow without LittleCMS.
        notes.append("its colour profile could not be used")
        return image
    assert converted is not None  # only when converting in place
    return converted


def _is_adobe_rgb(image: Image) -> bool:
    try:
        index = image.getexif().get_ifd(_INTEROP).get(_INTEROP_INDEX)
    except (SyntaxError, KeyError):  # no EXIF data after all, or in some versions of Pillow no such part in it
        return False
    return str(index).startswith("R03")


def _adobe_rgb() -> bytes:
    """An ICC profile of Adobe RGB (1998): its primaries, adapted to D50, and its gamma, 2 + 51/256."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH2x", 1, 2 * 256 + 51)
    white = xyz(0.9642, 1.0, 0.8249)
    tags = {
        b"wtpt": white,
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    start = 128 + 4 + 12 * len(tags)
    table, content = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(content), len(tag))
        content += tag
    header = struct.pack(">I4xI4s4s4s12x4s28x", start + len(content), 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return (header + white[8:]).ljust(128, b"\0") + table + content
