"""Text on pictures, in the font that comes with Pillow."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ipa_cli.errors import IpaError

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

PAPER, INK, FAINT, LINE, ALARM = "#ffffff", "#16181d", "#5d6470", "#d9dce1", "#b3261e"


def font(size: int) -> FreeTypeFont:
    """Pillow's own font at `size` pixels. Raises IpaError when Pillow was built without FreeType."""
    from PIL import ImageFont

    found = ImageFont.load_default(size)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise IpaError("this Pillow cannot write text: it was built without FreeType", "pip install --upgrade pillow")
    return found


def clip(text: str, width: float, font: FreeTypeFont) -> str:
    """One line of at most `width` pixels, with an ellipsis where it was cut."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    letters = _most(len(text), lambda count: font.getlength(text[:count].rstrip() + "…") <= width)
    return text[:letters].rstrip() + "…"


def wrap(text: str, width: float, lines: int, font: FreeTypeFont) -> list[str]:
    """At most `lines` lines of `width` pixels, broken at blanks; what is left of the text is clipped."""
    words = text.split()
    wrapped: list[str] = []
    while words and len(wrapped) < lines - 1:
        taken = _fitting(words, width, font)
        wrapped.append(clip(" ".join(words[:taken]), width, font))
        words = words[taken:]
    return [*wrapped, clip(" ".join(words), width, font)] if words else wrapped


def _fitting(words: Sequence[str], width: float, font: FreeTypeFont) -> int:
    """How many words a line takes, at least one."""
    return max(1, _most(len(words), lambda count: font.getlength(" ".join(words[:count])) <= width))


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `limit` that fits, where smaller ones fit too."""
    return bisect.bisect_left(range(limit + 1), True, lo=1, key=lambda count: not fits(count)) - 1


def write_lines(
    draw: ImageDraw, left: float, top: float, lines: Sequence[str], font: FreeTypeFont, ink: str, leading: float
) -> float:
    """Write lines below each other and return where the next would stand."""
    for line in lines:
        draw.text((left, top), line, fill=ink, font=font)
        top += leading
    return top
