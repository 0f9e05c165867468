"""What is known of a graph, in the file beside it: one JSON object, with a summary for listings in its first line.

    {"summary": {"created": …, "digest": …, "factors": …, "model": …, "schema_version": …, "seal": …, "size": …},
     "build_seconds": …, "created": …, "describe": …, "digest": …, "figures": …, "files": …, "key": …, …}

`summary` can be read alone, ten times faster than the whole, and its seal, a SHA-256, tells whether the other lines are
as they were written. All of it follows from the rest.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from .. import keys

MANIFEST = "manifest.json"
USES = ".uses"
SCHEMA_VERSION = 2
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
_SUMMARY: dict[str, set[type]] = {
    "created": {str},
    "digest": {str},
    "factors": {dict},
    "model": {str, type(None)},
    "schema_version": {int},
    "seal": {str},
    "size": {int},
}


class Damage(Exception):
    """What is wrong with one entry, in words; never leaves the store."""


def render(fields: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest with its summary: any changed byte, spaces too, shows when it is rendered again."""
    body = json.dumps(fields, sort_keys=True, indent=1, allow_nan=False).removeprefix("{\n") + "\n"
    factors = fields["key"]["factors"]
    model = fields["describe"].get("model")
    summary = {
        "created": fields["created"],
        "digest": fields["digest"],
        # Those with a dot are parts of a larger whole, such as the UNet's configuration: many, and of no use in a list.
        "factors": {name: value for name, value in factors.items() if "." not in name},
        "model": model if isinstance(model, str) else None,
        "schema_version": SCHEMA_VERSION,
        "seal": _seal(body.encode()),
        "size": sum(file["size"] for file in fields["files"].values()),
    }
    return f'{{"summary": {keys.canonical(summary)},\n{body}'.encode()


def summarize(text: bytes) -> dict[str, Any]:
    """The summary of a manifest, whose other lines are as they were written. Raises Damage."""
    end = text.find(b",\n")
    body = memoryview(text)[end + 2 :]  # without a copy: it is most of the file
    try:
        summary = _JSON.decode(f"{text[:end].decode()}}}")["summary"]
        if (
            all(type(summary[name]) in kinds for name, kinds in _SUMMARY.items())
            and summary["schema_version"] == SCHEMA_VERSION
            and summary["seal"] == _seal(body)
            and datetime.fromisoformat(summary["created"]).tzinfo is not None
        ):
            return summary
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    parse(text)  # says what exactly is wrong
    raise Damage("its manifest has changed")


def parse(text: bytes) -> dict[str, Any]:
    """The manifest in `text` without its summary, every field of the right kind. Raises Damage."""
    try:
        manifest = _JSON.decode(text.decode())
    except (ValueError, RecursionError):
        raise Damage("its manifest is not JSON") from None
    if not isinstance(manifest, dict):
        raise Damage("its manifest is not a table")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise Damage(f"its manifest has schema {manifest.get('schema_version')!r}, not {SCHEMA_VERSION}")
    if manifest.keys() != {"summary", *_FIELDS}:
        raise Damage(f"its manifest lacks or adds {min(manifest.keys() ^ {'summary', *_FIELDS})!r}")
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
    del manifest["summary"]
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
        and name not in (MANIFEST, USES)
    )


def _seal(body: bytes | memoryview) -> str:
    return hashlib.sha256(body).hexdigest()


def _finite(text: str) -> float:
    """A number that JSON can hold: not NaN, and no 1e999, which would read as infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"not a finite number: {text}")
    return number


_JSON = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)
