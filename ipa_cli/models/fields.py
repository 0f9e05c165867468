"""What a value in a configuration file may be, and the same in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Field:
    """What a value may be, and the same in words."""

    fits: Callable[[Any], bool]
    words: str


def whole(low: int, high: int) -> Field:
    """A whole number within bounds."""
    return Field(lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}")


def number(low: float, high: float) -> Field:
    """A number within bounds."""

    def fits(value: Any) -> bool:
        return type(value) in (int, float) and low <= value <= high  # NaN is not

    return Field(fits, f"a number from {low:g} to {high:g}")


def one_of(*known: Any) -> Field:
    """One of these values, of its very type."""
    words = " or ".join(json.dumps(value) for value in known)
    return Field(lambda value: any(type(value) is type(one) and value == one for one in known), words)


def either(*fields: Field) -> Field:
    """What any of these takes."""
    return Field(lambda value: any(field.fits(value) for field in fields), " or ".join(field.words for field in fields))


def several(each: Field, most: int = 8) -> Field:
    """A list that is not empty."""

    def fits(value: Any) -> bool:
        return isinstance(value, list) and 0 < len(value) <= most and all(map(each.fits, value))

    return Field(fits, f"a list of at most {most}, each {each.words}")
