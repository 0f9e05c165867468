"""Whether two sizes have the same proportions."""

from __future__ import annotations

ALIKE = 0.02  # how much they may differ


def differ(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether a picture of one size, (width, height), has other proportions than one of the other."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) > ALIKE


def of_mask(width: int, height: int) -> str:
    """What to do about a mask that does not cover a picture of this size."""
    return f"a mask covers the whole picture: make it {width}x{height}, or larger in these proportions"
