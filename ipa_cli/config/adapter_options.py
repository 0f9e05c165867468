"""Several adapters on one command line: each `--adapter` is the plain flags of one adapter, in one word."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ipa_cli.config.settings import FIELDS, PLACE, Settings, checked, exists
from ipa_cli.config.values import element
from ipa_cli.errors import UsageError, suggest

EXAMPLE = "--adapter 'owner/name:folder/file.safetensors,image=cat.png,scale=0.6,mode=style'"
# What a specification may say -> the setting that says it for one adapter alone.
KEYS = {
    "image": "image",
    "weight": "image_weight",
    "scale": "scale",
    "mode": "ip_mode",
    "layers": "ip_layers",
    "start": "ip_start",
    "end": "ip_end",
    "fit": "fit",
    "mask": "mask",
    "embeds": "embeds",
    "encoder": "image_encoder",
}
# Settings that belong to one adapter; the others above are defaults for all of them.
OF_FILE = ("ip_adapter", "ip_adapter_subfolder", "ip_adapter_weight_name")
OF_ONE = ("image", "image_weight", "mask", "embeds", *OF_FILE)
_KEY = re.compile(r"[A-Za-z_-]+=")
_NEXT = re.compile(r",(?=[A-Za-z_-]+=)")


def each(settings: Settings) -> tuple[Settings, ...]:
    """The settings of every adapter by itself; without `--adapter` those of the plain flags.

    Raises UsageError for a specification that cannot be read, and for plain flags that contradict it.
    """
    if not settings.adapter:
        return (settings,)
    said = [name for name in OF_ONE if getattr(settings, name) != FIELDS[name].default]
    if said:
        flag = "--" + said[0].replace("_", "-")
        raise UsageError(f"{flag} and --adapter are both given", f"say it within: {EXAMPLE}")
    return tuple(_parse(settings, text) for text in settings.adapter)


def says_scale(text: str) -> bool:
    """Whether a specification says its scale, so that the flag does not count for it."""
    return any(part.startswith("scale=") for part in _NEXT.split(text))


def with_scale(text: str, scale: float) -> str:
    """The same specification, which says its scale whatever the defaults are."""
    return text if says_scale(text) else f"{text},scale={scale!r}"


def with_places(text: str, change: Callable[[str, str], str]) -> str:
    """The same specification after `change`, of a setting's name and the place, to every place that it names."""
    parts = _NEXT.split(text)
    for number, part in enumerate(parts):
        key, _, value = part.partition("=")
        if number == 0 and not _KEY.match(part):
            place = part.strip() if "://" in part else _file(part.strip())[0] or ""
            if place:
                parts[0] = change("ip_adapter", place) + part.strip().removeprefix(place)
        elif key in KEYS and FIELDS[KEYS[key]].metadata["kind"] == PLACE:
            parts[number] = f"{key}={change(KEYS[key], value)}"
    return ",".join(parts)


def _parse(settings: Settings, text: str) -> Settings:
    where = "--adapter"
    first, *parts = _NEXT.split(text)
    if _KEY.match(first):
        first, parts = "", [first, *parts]
    values: dict[str, Any] = dict(zip(OF_FILE, _file(first.strip()), strict=True))
    for part in parts:
        key, _, value = part.partition("=")
        if key not in KEYS:
            raise UsageError(f"--adapter has '{key}'{suggest(key, KEYS)}", f"it takes {', '.join(KEYS)}: {EXAMPLE}")
        name, parsed = KEYS[key], element(KEYS[key], value, f"{where}: {key}")
        if isinstance(FIELDS[name].default, tuple):
            values[name] = (*values.get(name, ()), parsed)
        elif name in values:
            raise UsageError(f"--adapter says {key} twice", f"say it once: {EXAMPLE}")
        else:
            values[name] = parsed
    for name, value in values.items():
        checked(name, value, where)
    return replace(settings, adapter=(), **values)


def _file(text: str) -> tuple[str | None, str | None, str | None]:
    """Repository or folder, subfolder and file: "owner/name:folder/file", a path, or "own" for the model's own."""
    if text in ("", "own"):
        return None, None, None
    place, colon, inside = text.rpartition(":")
    if not colon or exists(text):
        return text, None, None
    folder, _, file = inside.rpartition("/")
    return place, folder or None, file or None
