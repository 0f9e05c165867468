"""What the texts of `--adapter` and `--lora` have in common: a location, then `key=value` after commas."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from ipa_cli.config.checks import number_hint, short
from ipa_cli.config.places import exists
from ipa_cli.errors import IpaError, suggest

DIGITS = "write it with digits, such as 0.5"
_KEY = re.compile(r"[A-Za-z_-]+=")
_NEXT = re.compile(r",\s*(?=[A-Za-z_-]+=)")


def split(text: str, known: Collection[str], where: str, error: type[IpaError]) -> tuple[str, list[tuple[str, str]]]:
    """The location in `text`, "" without one, and its pairs. Raises `error` for a key that is not `known`."""
    first, *parts = _NEXT.split(text)
    if _KEY.match(first):
        first, parts = "", [first, *parts]
    pairs = [(key, value) for key, _, value in (part.partition("=") for part in parts)]
    for key, _ in pairs:
        if key not in known:
            raise error(f"{where}: unknown key '{short(key)}'{suggest(key, known)}", f"known: {', '.join(known)}")
    return first.strip(), pairs


def number(text: str, where: str, error: type[IpaError]) -> float:
    """A number. Raises `error`."""
    try:
        return float(text)
    except ValueError:
        raise error(f"{where}={short(text)}: expected a number", number_hint(text, DIGITS)) from None


def location(text: str, where: str, error: type[IpaError]) -> tuple[str, str | None]:
    """Repository or folder and what is named in it, "owner/name:folder/file"; or a path alone, which may have a ":".

    Raises `error` for what is named in a file, and for a number, which is no name of a file but meant as a weight.
    """
    place, _, inside = text.rpartition(":")
    if not place or not inside or "://" in text or exists(text):
        return text, None
    if exists(place, Path.is_file):
        raise error(
            f"{where}: ':{short(inside)}' after the file {place}", f"settings follow a comma: {place},key=value"
        )
    if re.fullmatch(r"[\d.:,]+", inside):
        hint = f"settings follow a comma: {place},weight={inside}, or scale={inside} of --control and --adapter"
        raise error(f"{where}: ':{short(inside)}' names no file in {place}", hint)
    return place, inside


def shown(value: object) -> str:
    """A value as `key=value` has it."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
