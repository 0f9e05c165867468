"""Borders to add to a picture, as `--pad` takes them: "left=128,top=64"."""

from __future__ import annotations

from typing import NamedTuple

from ipa_cli.config.checks import SIDE_STEP, parsed_by

MOST = 4096
EXAMPLE = "left=128,top=64"


class Padding(NamedTuple):
    """Pixels on each side, multiples of 8."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    @property
    def width(self) -> int:
        """What it adds to the width."""
        return self.left + self.right

    @property
    def height(self) -> int:
        """What it adds to the height."""
        return self.top + self.bottom


def parse(text: str) -> Padding:
    """Raises ValueError, which says what is wrong."""
    found: dict[str, int] = {}
    for part in text.split(","):
        side, _, pixels = (word.strip() for word in part.partition("="))
        if side not in Padding._fields:
            raise ValueError(f"expected sides such as {EXAMPLE}; the sides are {', '.join(Padding._fields)}")
        if side in found:
            raise ValueError(f"{side} is given twice")
        number = int(pixels) if pixels.isascii() and pixels.isdigit() and len(pixels) < 6 else MOST + 1
        if number > MOST or number % SIDE_STEP:
            raise ValueError(f"{side}: expected pixels up to {MOST}, a multiple of {SIDE_STEP}, such as {side}=128")
        found[side] = number
    if not any(found.values()):
        raise ValueError(f"it adds nothing; expected sides such as {EXAMPLE}")
    return Padding(**found)


check = parsed_by(parse)
