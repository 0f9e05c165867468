"""Picture sizes as people write them."""

from __future__ import annotations

import re

from .errors import UsageError


def parse_picture_size(text: str) -> tuple[int, int]:
    """(width, height) in pixels from "1024x768". Raises UsageError."""
    found = re.fullmatch(r"\s*(\d{1,5})\s*[x×]\s*(\d{1,5})\s*", text.lower())
    if found is None:
        raise UsageError(f"'{text}' is no picture size", "write width x height in pixels, for example 1024x768")
    return int(found[1]), int(found[2])


def parse_range(text: str) -> tuple[int, int]:
    """(smallest, largest) side in pixels from "256..1536". Raises UsageError."""
    found = re.fullmatch(r"\s*(\d{1,5})\s*(?:\.\.|-)\s*(\d{1,5})\s*", text)
    if found is None:
        raise UsageError(f"'{text}' is no range of sizes", "write smallest..largest, for example 256..1536")
    return int(found[1]), int(found[2])
