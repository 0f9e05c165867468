"""Pictures on disk: written with their settings as PNG text, whole or not at all, and those settings read back.

Every picture carries two text chunks: `parameters` is that of `infotext`, `ipa` is JSON and repeats the run exactly.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import files, inputs
from .errors import IpaError
from .infotext import parameters_text, parse_parameters, settings_of, unread

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEMA_VERSION = 1
PNG_BYTES = 512_000_000
TEXT_LIMIT = 1 << 20  # characters in one text chunk, both ways; real ones have a few thousand


# --- writing --------------------------------------------------------------------------------------------------


class Saved(NamedTuple):
    """Where a picture went, and the SHA-256 of the file in hex."""

    path: Path
    sha256: str


def write_png(path: Path, image: Image, settings: Mapping[str, Any], force: bool = False) -> Saved:
    """Write a picture with its settings, whole or not at all; equal picture and settings give equal bytes.

    An existing file is kept and a number added to the new one's name, also when another process creates it
    meanwhile, unless `force`. `settings` must be JSON and as `parameters_text` takes them. Raises IpaError as
    `files.replace`.
    """
    data = _encoded(image, settings)
    return Saved(files.write(path, data, force), hashlib.sha256(data).hexdigest())


def _encoded(image: Image, settings: Mapping[str, Any]) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    chunk = json.dumps({**settings, "schema_version": SCHEMA_VERSION}, sort_keys=True, allow_nan=False)
    if len(chunk) > TEXT_LIMIT:
        raise IpaError(f"the settings of this picture take {len(chunk)} characters", "shorten the prompt")
    text = PngInfo()
    text.add_text("parameters", parameters_text(settings))
    text.add_text("ipa", chunk)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text, compress_level=6)
    return buffer.getvalue()


# --- reading back ---------------------------------------------------------------------------------------------


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings a PNG carries: its `ipa` chunk, else A1111's `parameters` under our names.

    Only the `ipa` chunk has `schema_version`; from `parameters` come `prompt`, `negative_prompt`, `steps`,
    `scheduler`, `guidance_scale`, `seed`, `width`, `height` and `model` as far as they are there and make sense.
    The types of these are checked, values are not. Raises IpaError when the file cannot be read, is no PNG,
    carries neither chunk, or its `ipa` chunk is damaged or from a newer version.
    """
    texts = _texts(path)
    if "ipa" in texts:
        return _checked_chunk(path, texts["ipa"])
    settings = settings_of(parse_parameters(texts.get("parameters", "")))
    if not settings:
        raise IpaError(f"{path} carries no settings", "only pictures that ipa or A1111's web UI wrote do")
    return settings


def unread_parameters(path: Path) -> dict[str, str]:
    """What A1111's text of a PNG says beyond `read_settings`: its names and values. Raises as `read_settings`."""
    return unread(parse_parameters(_texts(path).get("parameters", "")))


def _texts(path: Path) -> dict[str, str]:
    from PIL import Image, UnidentifiedImageError

    data = inputs.read_bytes(path, PNG_BYTES, "a PNG picture")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            texts = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    except UnidentifiedImageError as error:
        raise IpaError(f"{path} is not a readable PNG picture", "settings are read from PNG files only") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise IpaError(f"{path} is damaged: {error}", "use another copy of the picture") from error
    for key in ("ipa", "parameters"):
        if len(texts.get(key, "")) > TEXT_LIMIT:
            raise IpaError(f"{path}: its text chunk `{key}` is too large to be settings", "use another picture")
    return texts


# In the `ipa` chunk: setting -> its JSON types; null stands for "not set".
_TYPES: dict[str, tuple[type, ...]] = {
    "prompt": (str,),
    "negative_prompt": (str,),
    "steps": (int,),
    "scheduler": (str,),
    "guidance_scale": (int, float),
    "seed": (int,),
    "width": (int,),
    "height": (int,),
    "model": (str,),
    "backend": (str,),
    "graph": (str,),
    "adapters": (list,),
}


def _checked_chunk(path: Path, text: str) -> dict[str, Any]:
    def damaged(what: str) -> IpaError:
        return IpaError(f"{path}: its `ipa` chunk is damaged: {what}", "use another copy of the picture")

    def short_integer(digits: str) -> int:
        if len(digits) > 40:
            raise ValueError("a number is too long")
        return int(digits)

    def no_constant(name: str) -> float:
        raise ValueError(f"{name} is not a number")

    try:
        chunk = json.loads(text, parse_int=short_integer, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise damaged(str(error)) from error
    if not isinstance(chunk, dict) or type(chunk.get("schema_version")) is not int:
        raise damaged("no settings in it")
    if chunk["schema_version"] > SCHEMA_VERSION:
        raise IpaError(f"{path} was written by a newer ipa", "pip install --upgrade ipa-cli")
    for key, types in _TYPES.items():
        value = chunk.get(key)
        if value is not None and type(value) not in types:
            raise damaged(f"{key} is {json.dumps(value)[:40]}")
    if not all(isinstance(adapter, dict) for adapter in chunk.get("adapters") or ()):
        raise damaged("adapters is not a list of objects")
    return chunk
