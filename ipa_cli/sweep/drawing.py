"""Text on pictures, in the font that comes with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import IpaError

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
    while text and font.getlength(text + "…") > width:
        text = text[:-1].rstrip()
    return text + "…"


def wrap(text: str, width: float, lines: int, font: FreeTypeFont) -> list[str]:
    """At most `lines` lines of `width` pixels, broken at blanks; what is left of the text is clipped."""
    words = text.split()
    wrapped: list[str] = []
    while words and len(wrapped) < lines - 1:
        taken = len(words)
        while taken > 1 and font.getlength(" ".join(words[:taken])) > width:
            taken -= 1
        wrapped.append(clip(" ".join(words[:taken]), width, font))
        words = words[taken:]
    return [*wrapped, clip(" ".join(words), width, font)] if words else wrapped


def write_lines(
    draw: ImageDraw, left: float, top: float, lines: Sequence[str], font: FreeTypeFont, ink: str, leading: float
) -> float:
    """Write lines below each other and return where the next would stand."""
    for line in lines:
        draw.text((left, top), line, fill=ink, font=font)
        top += leading
    return top
