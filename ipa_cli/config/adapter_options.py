"""The text of one `--adapter`: a location, then the plain settings of one adapter as `key=value`."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from ipa_cli.config.adapters import KEYS, LOCATION, SETTINGS, AdapterConfig
from ipa_cli.config.checks import short
from ipa_cli.config.places import exists
from ipa_cli.config.settings import EXAMPLE, FIELDS, checked
from ipa_cli.errors import IpaError, UsageError, suggest

_KEY = re.compile(r"[A-Za-z_-]+=")
_NEXT = re.compile(r",(?=[A-Za-z_-]+=)")
_NUMBERS = {one.name for one in dataclasses.fields(AdapterConfig) if "float" in str(one.type)}


def parse(text: str, where: str, error: type[IpaError] = UsageError) -> AdapterConfig:
    """The adapter that `text` specifies. Raises `error`, which names `where` the text came from."""
    first, *parts = _NEXT.split(text)
    if _KEY.match(first):
        first, parts = "", [first, *parts]
    stated: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in KEYS:
            raise error(f"{where}: unknown key '{short(key)}'{suggest(key, KEYS)}", f"known: {', '.join(KEYS)}")
        parsed = _number(value, f"{where}: {key}", error) if key in _NUMBERS else value
        if isinstance(FIELDS[SETTINGS[key]].default, tuple):
            stated[key] = (*stated.get(key, ()), parsed)
        elif key in stated:
            raise error(f"{where} has {key} twice", f"give it once: {EXAMPLE}")
        else:
            stated[key] = parsed
    if "image" in stated and "embeds" in stated:
        raise error(f"{where} has both image and embeds", "leave one of them out, or give --adapter twice")
    values: dict[str, Any] = {name: FIELDS[setting].default for name, setting in SETTINGS.items()}
    values |= {**dict(zip(LOCATION, _location(first.strip()), strict=True)), **stated}
    for name, value in values.items():
        checked(SETTINGS[name], value, f"{where}: {name}", error)
    return AdapterConfig(**values, stated=frozenset(stated))


def _number(text: str, where: str, error: type[IpaError]) -> float:
    try:
        return float(text)
    except ValueError:
        raise error(f"{where}={short(text)}: expected a number", "write it with digits, such as 0.5") from None


def _location(text: str) -> tuple[str | None, str | None, str | None]:
    """Repository or folder, subfolder and file: "owner/name:folder/file", a path, or "own" for the model's own."""
    if text in ("", "own"):
        return None, None, None
    place, _, inside = text.rpartition(":")
    if not place or not inside or "://" in text or exists(text):
        return text, None, None
    folder, _, file = inside.rpartition("/")
    return place, folder or None, file or None
