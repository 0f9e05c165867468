"""The text of one `--adapter`: a location, then the plain settings of one adapter as `key=value`."""

from __future__ import annotations

import dataclasses
from typing import Any

from ipa_cli.config import option_text
from ipa_cli.config.adapters import KEYS, LOCATION, SETTINGS, AdapterConfig
from ipa_cli.config.settings import EXAMPLE, FIELDS, checked
from ipa_cli.errors import IpaError, UsageError

_NUMBERS = {one.name for one in dataclasses.fields(AdapterConfig) if "float" in str(one.type)}
_WHOLE = {one.name for one in dataclasses.fields(AdapterConfig) if str(one.type).startswith("int")}


def parse(text: str, where: str, error: type[IpaError] = UsageError) -> AdapterConfig:
    """The adapter that `text` specifies. Raises `error`, which names `where` the text came from."""
    first, pairs = option_text.split(text, KEYS, where, error)
    stated: dict[str, Any] = {}
    for key, value in pairs:
        parsed: Any = value
        if key in _NUMBERS | _WHOLE:
            parsed = option_text.number(value, f"{where}: {key}", error)
        if key in _WHOLE:
            if not parsed.is_integer():
                raise error(f"{where}: {key}={value}: expected a whole number", f"write {key}=1")
            parsed = int(parsed)
        if isinstance(FIELDS[SETTINGS[key]].default, tuple):
            stated[key] = (*stated.get(key, ()), parsed)
        elif key in stated:
            raise error(f"{where} has {key} twice", f"give it once: {EXAMPLE}")
        else:
            stated[key] = parsed
    if "image" in stated and "embeds" in stated:
        raise error(f"{where} has both image and embeds", "leave one of them out, or give --adapter twice")
    values: dict[str, Any] = {name: FIELDS[setting].default for name, setting in SETTINGS.items()}
    values |= {**dict(zip(LOCATION, _location(first, where, error), strict=True)), **stated}
    for name, value in values.items():
        checked(SETTINGS[name], value, f"{where}: {name}", error)
    return AdapterConfig(**values, stated=frozenset(stated))


def _location(text: str, where: str, error: type[IpaError]) -> tuple[str | None, str | None, str | None]:
    """Repository or folder, subfolder and file: "owner/name:folder/file", a path, or "own" for the model's own."""
    if text in ("", "own"):
        return None, None, None
    place, inside = option_text.location(text, where, error)
    if inside is None:
        return place, None, None
    folder, _, file = inside.rpartition("/")
    return place, folder or None, file or None
