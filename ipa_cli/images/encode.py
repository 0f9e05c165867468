"""Write pictures with their settings: as A1111's text, which galleries read, and as JSON, which is exact.

A PNG has both as text chunks, `parameters` and `ipa`; other formats have them in EXIF, as UserComment and MakerNote.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ipa_cli import __version__
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.images.filenames import FORMATS
from ipa_cli.images.infotext import parameters_text
from ipa_cli.system import files

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEMA_VERSION = 1
TEXT_LIMIT = 1 << 20  # characters of one text, both ways; real ones have a few thousand
EXIF_IFD, SOFTWARE, USER_COMMENT, MAKER_NOTE = 0x8769, 0x0131, 0x9286, 0x927C
UNICODE, OURS = b"UNICODE\0", b"ipa\0"  # what a UserComment and our MakerNote begin with
QUALITY = 90
JPEG_EXIF = 65_533  # bytes that a JPEG has room for, ...
JPEG_PROMPTS = 40_000  # ... and how many of them prompts may take, which are known before anything is drawn


class Saved(NamedTuple):
    """The path of a picture, and the SHA-256 of the file in hex."""

    path: Path
    sha256: str


def save(
    path: Path, image: Image, settings: Mapping[str, Any], force: bool = False, quality: int | None = None
) -> Saved:
    """Write a picture with its settings, completely or not at all; equal picture and settings give equal bytes.

    The format is that of the name's suffix. An existing file is kept and a number added to the new one's name, also
    when another process creates it meanwhile, unless `force`. Raises IpaError as `files.replace`.
    """
    data = encode(image, settings, FORMATS[path.suffix.lower()], quality)
    return Saved(files.write(path, data, force), hashlib.sha256(data).hexdigest())


def encode(image: Image, settings: Mapping[str, Any], format: str = "PNG", quality: int | None = None) -> bytes:
    """The bytes of a file; `settings` must be JSON and as `parameters_text` takes them."""
    chunk = json.dumps({**settings, "schema_version": SCHEMA_VERSION}, sort_keys=True, allow_nan=False)
    if len(chunk) > TEXT_LIMIT:
        raise IpaError(f"the settings of this picture take {len(chunk)} characters", "shorten the prompt")
    buffer = io.BytesIO()
    if format == "PNG":
        # A sixth of the time of zlib's usual search for repetitions, which drawn pictures do not have; as small.
        image.save(buffer, "PNG", pnginfo=_chunks(parameters_text(settings), chunk), compress_type=zlib.Z_RLE)
        return buffer.getvalue()
    exif = _exif(parameters_text(settings), chunk)
    if format == "JPEG" and len(exif) > JPEG_EXIF:
        raise IpaError(f"the settings of this picture take {len(exif)} bytes, too many for a JPEG", "--format png")
    image.save(buffer, format, exif=exif, quality=quality or QUALITY)
    return buffer.getvalue()


def check(format: str, quality: int | None, prompts: Iterable[str]) -> None:
    """Raise IpaError before the long work when Pillow cannot write the format, or a JPEG has no room for `prompts`."""
    if format == "PNG":
        if quality is not None:
            raise UsageError("a PNG is lossless: it has no --quality", "leave it out, or --format jpeg")
        return
    from PIL import features

    if format in ("WEBP", "AVIF") and not features.check(format.lower()):
        raise IpaError(f"this Pillow cannot write {format}", "pip install --upgrade pillow, or --format png")
    if format == "JPEG" and sum(2 * len(one) + len(json.dumps(one)) for one in prompts) > JPEG_PROMPTS:
        raise UsageError("the prompt is too long for a JPEG", "--format png, or shorten the prompt")


def _chunks(text: str, chunk: str) -> Any:
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text("parameters", text)
    chunks.add_text("ipa", chunk)
    return chunks


def _exif(text: str, chunk: str) -> bytes:
    from PIL.Image import Exif

    exif = Exif()
    exif[SOFTWARE] = f"ipa {__version__}"
    exif[EXIF_IFD] = {USER_COMMENT: UNICODE + text.encode("utf-16-be"), MAKER_NOTE: OURS + chunk.encode()}
    return exif.tobytes()
