"""From the body of a request to what the engine draws: everything is checked here, before it waits."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ipa_cli.config import FIELDS, Settings
from ipa_cli.config.settings import PICTURE, PLAIN, REFERENCE
from ipa_cli.engine import keywords
from ipa_cli.errors import UsageError
from ipa_cli.images import encode
from ipa_cli.images.filenames import FORMATS
from ipa_cli.images.reference import Reference, of_bytes
from ipa_cli.models import diffusers_schedulers, schedulers
from ipa_cli.pipeline import prompts
from ipa_cli.pipeline.task import Request, load_references, make_request
from ipa_cli.serve.limits import Limits, check

if TYPE_CHECKING:
    from ipa_cli.models.plan import Plan
    from ipa_cli.result import Reporter

PICTURES = ("image", "mask")  # settings whose values are pictures
# What a request may set: all that describes the picture and names no place.
PLAIN_SETTINGS = tuple(
    name
    for name, one in FIELDS.items()
    if one.metadata["panel"] in (PICTURE, REFERENCE) and one.metadata["kind"] == PLAIN
)
_DATA = re.compile(r"data:[\w.+/-]*(;[\w=.+-]+)*;base64,", re.ASCII)
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """What a request asks for, whatever API it came by.

    `values` are settings by name; those of `PICTURES` hold names, of which `files` has the bytes.
    """

    values: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    format: str = "PNG"
    quality: int | None = None


def make(
    asked: Asked, settings: Settings, plan: Plan, limits: Limits, reporter: Reporter, allow_fetch: bool
) -> tuple[Settings, Request]:
    """The settings and the request that `asked` means on an engine that was opened with `settings`.

    Raises UsageError and IpaError for what is wrong, before anything is drawn.
    """
    given = dict(asked.values)
    in_memory: dict[str, Reference] = {}
    for name in PICTURES:
        if given.get(name) is not None:
            given[name] = [_named(one, name == "mask", asked.files, in_memory, allow_fetch) for one in given[name]]
    if given.get("adapter") is not None:
        given["adapter"] = [
            {
                key: [_named(one, key == "mask", asked.files, in_memory, allow_fetch) for one in _listed(value)]
                if key in PICTURES
                else value
                for key, value in mapping.items()
            }
            for mapping in given["adapter"]
        ]
    if given.get("image") and not plan.adapters:
        raise UsageError("no adapter is loaded that could follow a reference", "start the server with --ip-adapter")
    wanted, _ = keywords.of_request(settings, {**given, "num_images": given.get("num_images") or 1})
    schedulers.check(wanted.scheduler)
    request = make_request(wanted, plan, load_references(wanted, reporter, in_memory))
    diffusers_schedulers.check_steps(request.scheduler, plan, request.steps)
    check(request, limits)
    encode.check(asked.format, asked.quality, max(request.prompt, request.negative_prompt, key=len))
    prompts.review((request.prompt, request.negative_prompt), request.prompt_syntax, reporter)
    return wanted, request


def picture_format(name: str) -> str:
    """The format with this name or suffix, such as "png" or "jpeg", as Pillow calls it."""
    found = FORMATS.get(f".{name.lower()}")
    if found is None:
        known = ", ".join(dict.fromkeys(suffix[1:] for suffix in FORMATS))
        raise UsageError(f"there is no format '{name}'", f"known are {known}")
    return found


def decoded(text: str) -> bytes:
    """The bytes of a picture in base64, with or without `data:image/…;base64,` before it."""
    try:
        return base64.b64decode(_DATA.sub("", text, count=1), validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("a picture of the request is not base64", "send its bytes in base64") from None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _named(
    text: Any, as_mask: bool, files: Mapping[str, bytes], in_memory: dict[str, Reference], allow_fetch: bool
) -> str:
    """The name of a picture, which joins those `in_memory`; nothing is read from the server's disk."""
    if not isinstance(text, str):
        raise UsageError("a picture of the request is not text", "send it in base64, or as a file")
    if text in files:
        data, name = files[text], text
    elif _ADDRESS.match(text):
        if not allow_fetch:
            raise UsageError(
                "this server fetches no addresses", "send the picture itself, or start it with --allow-fetch"
            )
        return text
    else:
        data = decoded(text)
        name = f"{'mask' if as_mask else 'picture'} {hashlib.sha256(data).hexdigest()[:12]}"
    kind = "L" if as_mask else "RGB"
    if name in in_memory and in_memory[name].image.mode != kind:
        raise UsageError(f"{name} is a reference and a mask", "send it twice, under two names")
    in_memory[name] = of_bytes(data, name, as_mask)
    return name
