"""The manifest of a graph: one JSON object, whose first two lines are for listings.

    {"summary": {"created": …, "digest": …, "model": …, "schema_version": …, "seal": …, "size": …},
     "built_with": {"code": …, "instruction set": …, "torch": …, …},
     "build_seconds": …, "created": …, "describe": …, "digest": …, "figures": …, "files": …, "key": …, …}

These two repeat parts of the rest and can be parsed without it, ten times faster. The seal, a CRC-32 of all lines
below the first, detects damage well enough for a list; what is loaded is compared byte by byte. The second line is the
same in thousands of graphs, and parsed once.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from zlib import crc32

from ipa_cli.cache import keys
from ipa_cli.cache.keys import Factor

MANIFEST = "manifest.json"
USES = ".uses"
SIGNATURE = "proof.json"  # of this user
PUBLISHER = "publisher.json"  # of those who published it
SCHEMA_VERSION = 3
MAX_MANIFEST = 4 << 20

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema_version": int,
    "digest": str,
    "key": dict,
    "created": str,
    "tool": str,
    "build_seconds": (int, float),
    "describe": dict,
    "figures": dict,
    "files": dict,
}
_SUMMARY: dict[str, type | tuple[type, ...]] = {
    "created": str,
    "digest": str,
    "model": (str, type(None)),
    "schema_version": int,
    "seal": int,
    "size": int,
}
# Factors of the key that differ between graphs built with the same software on the same machine.
_OF_THE_PICTURES = {"batch", "dtype", "height", "image tokens", "masks", "text tokens", "width"}


class Damage(Exception):
    """What is wrong with an entry; never leaves this package."""


class OtherVersion(Damage):
    """An entry was written by another version of ipa; it need not be damaged."""


def render(fields: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest with its lines for listings; to render it again shows any changed byte, even a space."""
    # Factors with a dot are parts of a larger whole, such as the UNet's configuration: many, and of no use in a list.
    built_with = {
        name: value
        for name, value in fields["key"]["factors"].items()
        if "." not in name and name not in _OF_THE_PICTURES
    }
    body = json.dumps(fields, sort_keys=True, indent=1, allow_nan=False).removeprefix("{\n") + "\n"
    sealed = f' "built_with": {keys.canonical(built_with)},\n{body}'.encode()
    model = fields["describe"].get("model")
    summary = {
        "created": fields["created"],
        "digest": fields["digest"],
        "model": model if isinstance(model, str) else None,
        "schema_version": SCHEMA_VERSION,
        "seal": crc32(sealed),
        "size": sum(file["size"] for file in fields["files"].values()),
    }
    return f'{{"summary": {keys.canonical(summary)},\n'.encode() + sealed


def summarize(text: bytes) -> tuple[dict[str, Any], str]:
    """The summary of a manifest, whose other lines are as they were written, and its second line. Raises Damage."""
    end = text.find(b",\n")
    below = end + 2
    try:
        summary = _JSON.decode(f"{text[:end].decode()}}}")["summary"]
        built_with = text[below : text.find(b",\n", below)].decode()
        decode_factors(built_with)
        if (
            summary.keys() == _SUMMARY.keys()
            and all(map(isinstance, summary.values(), _SUMMARY.values()))
            and summary["schema_version"] == SCHEMA_VERSION
            and summary["seal"] == crc32(memoryview(text)[below:])
            and datetime.fromisoformat(summary["created"]).tzinfo is not None
        ):
            return summary, built_with
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    parse(text)  # says what exactly is wrong
    raise Damage("its manifest has changed")


@lru_cache(4096)
def decode_factors(built_with: str) -> Mapping[str, Factor]:
    """What the second line of a manifest says. Raises ValueError or LookupError when it is no such line."""
    factors = _JSON.decode(f"{{{built_with}}}")["built_with"]
    if not isinstance(factors, dict):
        raise ValueError("the factors are not a table")
    return factors


def parse(text: bytes) -> dict[str, Any]:
    """The manifest in `text` without its lines for listings, every field of the right kind. Raises Damage."""
    try:
        manifest = _JSON.decode(text.decode())
    except (ValueError, RecursionError):
        raise Damage("its manifest is not JSON") from None
    if not isinstance(manifest, dict):
        raise Damage("its manifest is not a table")
    schema = manifest.get("schema_version")
    if schema != SCHEMA_VERSION:
        problem = f"its manifest has schema {schema!r}, not {SCHEMA_VERSION}"
        raise OtherVersion(problem) if type(schema) is int and schema > 0 else Damage(problem)
    if problems := manifest.keys() ^ {"summary", "built_with", *_FIELDS}:
        raise Damage(f"its manifest lacks or adds {min(problems)!r}")
    for name, kind in _FIELDS.items():
        if not isinstance(manifest[name], kind):
            raise Damage(f"its manifest has no proper {name!r}")
    for name, file in manifest["files"].items():
        if not safe_name(name):
            raise Damage(f"its manifest names a file outside: {name!r}")
        if not (
            isinstance(file, dict)
            and file.keys() == {"sha256", "size"}
            and isinstance(file["sha256"], str)
            and _SHA256.fullmatch(file["sha256"])
            and type(file["size"]) is int
            and file["size"] >= 0
        ):
            raise Damage(f"its manifest describes {name!r} wrongly")
    try:
        keys.validate(manifest["key"])
        if datetime.fromisoformat(manifest["created"]).tzinfo is None:
            raise ValueError("without a time zone")
    except ValueError as error:
        raise Damage(f"its manifest is wrong: {error}") from error
    del manifest["summary"], manifest["built_with"]
    return manifest


@lru_cache(4096)  # the same few names in every entry of a long list
def safe_name(name: str) -> bool:
    """Whether `name` is a relative path of a file that stays inside its folder and is no name of the store's own."""
    parts = name.split("/")
    return (
        0 < len(name) <= 1024
        and all(part not in ("", ".", "..") and len(part.encode("utf-8", "replace")) <= 255 for part in parts)
        and name.isprintable()
        and "\\" not in name
        and name not in (MANIFEST, USES, SIGNATURE, PUBLISHER)
    )


def _finite(text: str) -> float:
    """A number that JSON can hold: not NaN, and no 1e999, which would read as infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"not a finite number: {text}")
    return number


_JSON = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)
