"""The settings in a picture, written by this program or others; untrusted until checked.

Texts of a PNG are its chunks `tEXt`, `zTXt` and `iTXt`; those of a JPEG, WebP or AVIF are in EXIF.
"""

from __future__ import annotations

import io
import json
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.errors import IpaError
from ipa_cli.images.decode import DAMAGE, formats
from ipa_cli.images.encode import EXIF_IFD, MAKER_NOTE, OURS, SCHEMA_VERSION, TEXT_LIMIT, UNICODE, USER_COMMENT
from ipa_cli.images.infotext import parse_parameters, settings_of
from ipa_cli.system import inputs

if TYPE_CHECKING:
    from PIL.Image import Image

FILE_BYTES = 512_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
NAMES = ("ipa", "parameters", "prompt", "invokeai_metadata")  # the texts that are known here


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings a picture carries: what ipa wrote, else A1111's text under our names.

    Only the former have `schema_version`; from the latter come `prompt`, `negative_prompt`, `steps`, `scheduler`,
    `guidance_scale`, `seed`, `width`, `height` and `model` as far as they are there and make sense. The types of these
    are checked, values are not. Raises IpaError as `texts` and `own_settings`.
    """
    found = texts(path)
    return own_settings(path, found["ipa"]) if "ipa" in found else settings_of(parse_parameters(found["parameters"]))


def texts(path: Path, data: bytes | None = None) -> dict[str, str]:
    """The texts of a picture that are known here, by `NAMES`; at least one. `data` is the file, where it is in memory.

    Raises IpaError as `texts_of`, and when the file cannot be read.
    """
    if data is None:
        data = inputs.read_bytes(path, FILE_BYTES, "a picture")
    found = texts_of(data, str(path))
    if not any(text.strip() for text in found.values()) and "ipa" not in found:
        raise IpaError(
            f"{path} has no settings in it", f"--image {shlex.quote(str(path))} takes it as a reference picture"
        )
    return found


def texts_of(data: bytes, name: str) -> dict[str, str]:
    """The texts that are known here, by `NAMES`, of a picture from its bytes.

    Of several of the same name the last counts, as in the programs that write them. Raises IpaError, which says `name`,
    for what is no such picture, and for too large a text.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF, which is then not read
            with Image.open(io.BytesIO(data), formats=[kind for kind in formats() if kind in FORMATS]) as image:
                found = dict(_texts(image))
    except UnidentifiedImageError as error:
        hint = "settings are read from PNG, JPEG, WebP and AVIF files"
        raise IpaError(f"{name} is not a readable picture", hint) from error
    except (*DAMAGE, Image.DecompressionBombError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise IpaError(f"{name} is damaged: {what}", "use another copy of the picture") from error
    for kind, text in found.items():
        if len(text) > TEXT_LIMIT:
            raise IpaError(f"{name}: its text `{kind}` is too large for settings", "use another picture")
    return found


def parse_json(text: str, lenient: bool = False) -> Any:
    """JSON of unknown origin; `lenient` takes NaN and infinities, which some programs write, as null.

    Raises ValueError for anything else, too deep nesting, and numbers that are not valid.
    """

    def short_integer(digits: str) -> int:
        if len(digits) > 40:
            raise ValueError("a number is too long")
        return int(digits)

    def no_constant(name: str) -> None:
        if not lenient:
            raise ValueError(f"{name} is not a number")

    try:
        return json.loads(text, parse_int=short_integer, parse_constant=no_constant)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error


def _texts(image: Image) -> Iterator[tuple[str, str]]:
    if image.format == "PNG":
        for name in NAMES:
            if isinstance(text := image.info.get(name), str):
                yield name, _as_written(text)
        return
    exif = image.getexif()
    inner = exif.get_ifd(EXIF_IFD)
    if isinstance(comment := inner.get(USER_COMMENT), bytes) and len(comment) > 8:
        yield "parameters", _comment(comment)
    if isinstance(note := inner.get(MAKER_NOTE), bytes) and note.startswith(OURS):
        yield "ipa", note.removeprefix(OURS).decode()
    for tag in _COMFYUI:
        if isinstance(text := exif.get(tag), str) and text.lower().startswith("prompt:"):
            yield "prompt", text[len("prompt:") :].strip("\0")


_COMFYUI = (0x010E, 0x010F, 0x0110)  # ImageDescription, Make, Model: ComfyUI and its nodes do not agree


def _as_written(text: str) -> str:
    """The text of a chunk: `tEXt` is Latin-1 by its standard, but some programs write UTF-8 there."""
    if type(text) is str:  # Pillow has a type of its own for `iTXt`
        try:
            return text.encode("latin-1").decode()
        except UnicodeError:
            pass
    return str(text)


def _comment(comment: bytes) -> str:
    """An EXIF UserComment: eight bytes name the encoding. A1111 writes UTF-16, big-endian, other programs little."""
    text = comment[8:]
    if not comment.startswith(UNICODE):
        return text.decode(errors="replace").strip("\0")
    little = text[1::2].count(0) > text[0::2].count(0)
    return text.decode("utf-16-le" if little else "utf-16-be", errors="replace").strip("\0\ufeff")


# In the `ipa` chunk: setting -> its JSON types; null stands for "not set".
_TYPES: dict[str, tuple[type, ...]] = {
    "prompt": (str,),
    "negative_prompt": (str,),
    "prompt_syntax": (str,),
    "steps": (int,),
    "scheduler": (str,),
    "schedule": (str,),
    "eta": (int, float),
    "guidance_scale": (int, float),
    "guidance_start": (int, float),
    "guidance_end": (int, float),
    "guidance_rescale": (int, float),
    "seed": (int,),
    "width": (int,),
    "height": (int,),
    "model": (str,),
    "backend": (str,),
    "graph": (str,),
    "adapters": (list,),
    "embeddings": (list,),
}


def own_settings(path: Path, text: str) -> dict[str, Any]:
    """What ipa wrote into a picture. Raises IpaError when it is damaged or from a newer version."""

    def damaged(what: str) -> IpaError:
        return IpaError(f"{path}: its `ipa` chunk is damaged: {what}", "use another copy of the picture")

    try:
        chunk = parse_json(text)
    except ValueError as error:
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
