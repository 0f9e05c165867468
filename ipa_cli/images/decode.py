"""Decode pictures: only known formats, only intact files, of limited size."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from ipa_cli.errors import IpaError
from ipa_cli.images.colour import to_srgb

if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS = 64_000_000
_UNHEARD = logging.NullHandler()  # one: a logger keeps each that it is given


@dataclass(frozen=True)
class OptionalFormat:
    """A format that needs an optional decoder; `brands` are in the first box of such a file (ISO/IEC 23008-12)."""

    suffixes: tuple[str, ...]
    brands: frozenset[bytes]
    needs: str
    hint: str


_OPTIONAL = {
    "AVIF": OptionalFormat(
        (".avif", ".avifs"), frozenset({b"avif", b"avis"}), "AVIF needs Pillow 11.3", "pip install --upgrade pillow"
    ),
    "HEIF": OptionalFormat(
        (".heic", ".heif", ".hif"),
        frozenset({b"heic", b"heix", b"hevc", b"hevx"}),
        "HEIC needs the package pillow-heif",
        "pip install pillow-heif",
    ),
}
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(suffix for kind in _OPTIONAL.values() for suffix in kind.suffixes),
)
# Pictures that no decoder here reads: a note names those in a folder.
OTHER_SUFFIXES = (
    *(".jxl", ".jp2", ".svg", ".psd", ".tga", ".ico", ".exr", ".hdr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)

# Format -> the plugin that registers it. No other decoder is ever tried.
_FORMATS = {
    "PNG": "PngImagePlugin",
    "JPEG": "JpegImagePlugin",
    "WEBP": "WebPImagePlugin",
    "GIF": "GifImagePlugin",
    "BMP": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "AVIF": "AvifImagePlugin",
}
_KINDS = "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF or HEIC"

DAMAGE = (  # what Pillow's decoders raise on damaged files
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    AssertionError,
    MemoryError,
    struct.error,
    zlib.error,
)


def decode(data: bytes, source: str) -> tuple[Image, list[str]]:
    """The picture upright and in sRGB, RGB or RGBA, and notes on what was changed or left out.

    Raises IpaError, which names `source`, when the format is unknown, the file is damaged, or it has too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    logging.getLogger("PIL").addHandler(_UNHEARD)  # or it logs damage to stderr
    if not data:
        raise IpaError(f"{source} is empty", f"it must be a {_KINDS} picture")
    limit = f"more than {PIXELS // 1_000_000} million pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damage and size, which are checked here
            with Image.open(io.BytesIO(data), formats=formats()) as opened:
                if opened.width * opened.height > PIXELS:
                    raise IpaError(f"{source} has {limit}: {opened.width}x{opened.height}", "make it smaller")
                animated = opened.format != "MPO" and getattr(opened, "is_animated", False)
                notes = ["only the first of several frames is used"] if animated else []
                opened.load()
                image = to_srgb(ImageOps.exif_transpose(opened), notes)
    except UnidentifiedImageError as error:
        for kind in missing():
            if kind.brands & _brands(data):
                raise IpaError(f"{source} cannot be read: {kind.needs}", kind.hint) from error
        if data.startswith(b"version https://git-lfs"):
            raise IpaError(f"{source} is a Git LFS pointer, which stands for it", "fetch it: git lfs pull") from error
        what = "a web page or SVG" if data.lstrip()[:1] == b"<" else "damaged, or not a picture"
        raise IpaError(f"{source} is {what}", f"it must be a {_KINDS} picture") from error
    except Image.DecompressionBombError as error:
        raise IpaError(f"{source} has {limit}", "make it smaller") from error
    except DAMAGE as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise IpaError(f"{source} cannot be decoded: {what}", "use another copy of the picture") from error
    return image, notes


def decoded(image: Image, source: str) -> tuple[Image, list[str]]:
    """A picture that is in memory as `decode` gives one."""
    from PIL import ImageOps

    if not 0 < image.width * image.height <= PIXELS:
        raise IpaError(f"{source} has {image.width}x{image.height} pixels", f"at most {PIXELS // 1_000_000} million")
    notes: list[str] = []
    return to_srgb(ImageOps.exif_transpose(image), notes), notes


def formats() -> list[str]:
    """The formats to try that this Pillow can read."""
    from PIL import Image

    for plugin in _FORMATS.values():
        with suppress(ImportError):
            import_module(f"PIL.{plugin}")
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    return [name for name in (*_FORMATS, "HEIF") if name in Image.OPEN]


def missing() -> list[OptionalFormat]:
    """The optional formats whose decoder is not installed."""
    here = formats()
    return [kind for name, kind in _OPTIONAL.items() if name not in here]


def _brands(data: bytes) -> set[bytes]:
    if data[4:8] != b"ftyp":
        return set()
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return {box[at : at + 4] for at in range(0, len(box), 4)}
