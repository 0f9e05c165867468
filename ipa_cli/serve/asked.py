"""What a request asks for, whatever API it came by, and the pictures that it sends.

Nothing is read from the server's disk: a name stands for a file of the request, or is the picture itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ipa_cli.config.adapters import KEYS
from ipa_cli.config.dropping import NO_IMAGE
from ipa_cli.config.requests import FOLDERS, ONE_PICTURE, PICTURES
from ipa_cli.engine.keywords import MASKS
from ipa_cli.errors import UsageError
from ipa_cli.images.filenames import FORMATS
from ipa_cli.images.reference import Reference, of_bytes
from ipa_cli.pipeline.references import InMemory

NAME_LENGTH = 4096  # characters of a file's name, which is kept with the job: as long as paths are
PIXELS = 256_000_000  # of all pictures of a request, which stay in memory until it is drawn
_DATA = re.compile(r"data:[\w.+/-]*(;[\w=.+-]+)*;base64,", re.ASCII)
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """What a request asks for, whatever API it came by.

    `values` are settings by name; those of `PICTURES` and `ONE_PICTURE` hold names, of which `files` has the bytes.
    Those that are not given are as the server was started, or with `bare` as `ipa generate` has them without any flag.
    `members` are the files that a name stands for, `folders` are those in which names in a prompt find files,
    `inherited` is as `Settings` has it.
    """

    values: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    format: str = "PNG"
    quality: int | None = None
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)
    bare: bool = False
    folders: Collection[str] = FOLDERS
    inherited: Collection[str] = ()


def named(asked: Asked, allow_fetch: bool) -> tuple[dict[str, Any], InMemory]:
    """The values of a request with a name for each picture, and the pictures by these names.

    Raises UsageError for a picture that is not there, cannot be read, or is at an address without `allow_fetch`.
    """
    if any(len(name) > NAME_LENGTH for name in (*asked.files, *asked.members)):
        raise UsageError(f"a file's name has more than {NAME_LENGTH} characters", "send it by a shorter one")
    sent = _Sent(asked, allow_fetch)
    given = dict(asked.values)
    without = _listed(given.get("image")) == list(NO_IMAGE)
    if without:
        given["image"] = None
    given = sent.with_names(given, ONE_PICTURE)
    if given.get("region") is not None:
        given["region"] = [
            {**one, "mask": sent.name(one["mask"], as_mask=True)} if "mask" in one else one for one in given["region"]
        ]
    if given.get("adapter") is not None:
        single = [key for key in ONE_PICTURE if key in KEYS]
        given["adapter"] = [sent.with_names(one, single) for one in given["adapter"]]
    if given.get("control") is not None:
        given["control"] = [
            {**one, "image": sent.name(one["image"])} if one.get("image") is not None else one
            for one in given["control"]
        ]
    for mapping in (given, *(given.get("adapter") or ())):
        if mapping.get("embeds") is not None and mapping["embeds"] not in list(asked.files):
            raise UsageError("image embeddings are not among the files of the request", "send them in base64")
    if without:
        given["image"] = NO_IMAGE
    return given, InMemory(sent.pictures, asked.files, sent.members)


class _Sent:
    """The pictures of a request, and what its names stand for, as `InMemory` has them."""

    def __init__(self, asked: Asked, allow_fetch: bool):
        self._asked, self._allow_fetch = asked, allow_fetch
        self.pictures: dict[tuple[str, bool], Reference] = {}
        self.members: dict[tuple[str, bool], Sequence[str]] = {}

    def with_names(self, mapping: Mapping[str, Any], single: Collection[str]) -> dict[str, Any]:
        """Settings with names in place of pictures; those of `single` are one picture."""
        found = dict(mapping)
        for key in PICTURES:
            if found.get(key) is not None:
                found[key] = [self.name(one, key in MASKS) for one in _listed(found[key])]
        for key in single:
            if found.get(key) is not None:
                found[key] = self.name(found[key], key in MASKS)
        return found

    def name(self, text: Any, as_mask: bool = False) -> str:
        """The name of a picture, which joins those that were sent."""
        if not isinstance(text, str):
            raise UsageError("a picture of the request is not text", "send it in base64, or as a file")
        if text in self._asked.members:
            if not self._asked.members[text]:
                raise UsageError(f"{text} stands for no file", "name those that it stands for in members")
            for member in self._asked.members[text]:
                if member not in self._asked.files:
                    raise UsageError(f"{text} stands for {member}, which is not among the files", "send it in base64")
                self._add(self._asked.files[member], member, as_mask)
            self.members[text, as_mask] = self._asked.members[text]
            return text
        if text in self._asked.files:
            data, name = self._asked.files[text], text
        elif _ADDRESS.match(text):
            if not self._allow_fetch:
                raise UsageError(
                    "this server fetches no addresses", "send the picture itself, or start it with --allow-fetch"
                )
            return text
        else:
            data = decoded(text)
            name = f"{'mask' if as_mask else 'picture'} {hashlib.sha256(data).hexdigest()[:12]}"
        self._add(data, name, as_mask)
        return name

    def _add(self, data: bytes, name: str, as_mask: bool) -> None:
        """Decode a picture, once. Raises UsageError for more than fit into memory."""
        if (name, as_mask) in self.pictures:
            return
        self.pictures[name, as_mask] = of_bytes(data, name, as_mask)
        if sum(one.width * one.height for one in self.pictures.values()) > PIXELS:
            raise UsageError(
                f"the pictures of the request have more than {PIXELS // 1_000_000} million pixels", "make them smaller"
            )


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
