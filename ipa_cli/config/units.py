"""Parsing and formatting of byte counts, durations and picture sizes."""

from __future__ import annotations

import re

from ipa_cli.errors import UsageError

_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_size(text: str) -> int:
    """Bytes from text such as "20GB", "512MiB" or "1.5g". Raises ValueError."""
    found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([kmgt]i?|)b?\s*", text, re.ASCII | re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is not a size; write for example 5GB or 512MiB")
    return int(float(found[1]) * _BYTES[found[2].lower()])


def parse_age(text: str) -> int:
    """Seconds from text such as "30d", "12h" or "2w". Raises ValueError."""
    found = re.fullmatch(r"\s*(\d{1,9})\s*([smhdw])\s*", text, re.ASCII | re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is not a duration; write for example 30d or 12h")
    return int(found[1]) * _SECONDS[found[2].lower()]


def size(count: int) -> str:
    """Bytes for people: "12.3 MB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def age(seconds: float) -> str:
    """A duration for people: "5 min", "3 d"; "now" below a minute."""
    for span, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= span:
            return f"{int(seconds // span)} {word}"
    return "now"


def rate(per_second: float | None, one: str = "it", many: str = "it") -> str:
    """A speed for people: "2.50 pictures/s", below one a second "3.20 s/picture"; "" where it is not known."""
    if not per_second:
        return ""
    number, unit = (per_second, f"{many}/s") if per_second >= 1 else (1 / per_second, f"s/{one}")
    return f"{number:.1f} {unit}" if number >= 10 else f"{number:.2f} {unit}"


def parse_picture_size(text: str) -> tuple[int, int]:
    """(width, height) in pixels from "1024x768". Raises UsageError."""
    found = re.fullmatch(r"\s*(\d{1,5})\s*[x×]\s*(\d{1,5})\s*", text.lower())
    if found is None:
        square = f", or {text.strip()}x{text.strip()} for a square" if text.strip().isdecimal() else ""
        hint = f"write width x height in pixels, for example 1024x768{square}"
        raise UsageError(f"'{text}' is not a picture size", hint)
    return int(found[1]), int(found[2])


def parse_range(text: str) -> tuple[int, int]:
    """(smallest, largest) side in pixels from "256..1536". Raises UsageError."""
    found = re.fullmatch(r"\s*(\d{1,5})\s*(?:\.\.|-)\s*(\d{1,5})\s*", text)
    if found is None:
        raise UsageError(f"'{text}' is not a range of sizes", "write smallest..largest, for example 256..1536")
    return int(found[1]), int(found[2])


def plural(count: int, word: str) -> str:
    """1 picture, 2 pictures."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
