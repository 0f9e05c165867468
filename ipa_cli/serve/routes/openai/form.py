"""Forms with files: what OpenAI's clients send to edit a picture."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from starlette.datastructures import UploadFile

from ipa_cli.errors import UsageError
from ipa_cli.images.decode import decode
from ipa_cli.images.metadata import parse_json
from ipa_cli.serve.limits import Refused

if TYPE_CHECKING:
    from starlette.requests import Request as HTTPRequest

OWN = "ipa"
MOST_FILES = 64
NAME_LENGTH = 100
_INNER = re.compile(rf"{OWN}\[(\w+)\](\[\])?")  # as the package `openai` writes a mapping inside of a form


@dataclass
class Form:
    """A form: `values` as a JSON body would have them, names of the pictures it came with, and their bytes."""

    values: dict[str, Any] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


async def read(http: HTTPRequest, limit: int) -> Form:
    """Read a form of at most `limit` bytes a part. Raises Refused for another body, UsageError for other files."""
    if not http.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused("this takes a form with files", "send multipart/form-data", 415)
    found = Form()
    async with http.form(max_files=MOST_FILES, max_part_size=limit) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                _add_file(found, name, value.filename or name, await value.read())
            else:
                _add_text(found.values, name, value)
    return found


def reference_mask(data: bytes, name: str) -> bytes:
    """A mask as `ipa` has it: where OpenAI's is opaque, what was sent is kept, so there the reference acts.

    A mask without transparent parts is one of ours already, and stays as it is.
    """
    image, _ = decode(data, name)
    if image.mode != "RGBA" or image.getchannel("A").getextrema()[0] == 255:
        return data
    buffer = io.BytesIO()
    image.getchannel("A").save(buffer, "PNG")
    return buffer.getvalue()


def _add_file(form: Form, field: str, name: str, data: bytes) -> None:
    kinds = {"image": form.images, "image[]": form.images, "mask": form.masks}
    if field not in kinds:
        raise UsageError(f"there is no file '{field[:NAME_LENGTH]}'", "send image, image[] and mask")
    # A browser may send a whole path; of it the picture records the last part alone.
    plain = PurePosixPath(name.replace("\\", "/")).name[-NAME_LENGTH:] or field
    taken, number, unique = form.files, 1, plain
    while unique in taken:
        number += 1
        unique = f"{number}-{plain}"
    kinds[field].append(unique)
    form.files[unique] = data


def _add_text(values: dict[str, Any], name: str, text: str) -> None:
    if name == OWN:
        try:
            values[OWN] = parse_json(text)
        except ValueError as error:
            raise UsageError(f"{OWN} is not JSON: {error}", f'send {OWN}={{"seed": 1}}') from None
    elif inner := _INNER.fullmatch(name):
        own = values.setdefault(OWN, {})
        if not isinstance(own, dict):
            raise UsageError(f"{OWN} is not a mapping", f'send {OWN}={{"seed": 1}}')
        if inner[2]:
            listed = own.setdefault(inner[1], [])
            if not isinstance(listed, list):
                raise UsageError(f"{name} and {OWN}[{inner[1]}] are both given", "leave one out")
            listed.append(text)
        else:
            own[inner[1]] = text
    elif name.startswith(f"{OWN}["):
        raise UsageError(f"{name[:NAME_LENGTH]} is nested too deep for a form", f"send {OWN} as JSON text")
    else:
        values[name] = text


def where(form: Form, adapters: int, own: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that hold the pictures of a form, on a server of so many adapters that are named one by one.

    Raises UsageError where it is open whose they are.
    """
    if own.get("adapter") is not None:
        return {}
    if adapters > 1:
        raise UsageError(
            f"{adapters} adapters are loaded: whose are the pictures?",
            'name them for each: ipa={"adapter": [{"image": ["cat.png"]}, …]}',
        )
    key = {"image": form.images, **({"mask": form.masks} if form.masks else {})}
    return {"adapter": [key]} if adapters else key
