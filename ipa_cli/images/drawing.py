"""Text on pictures: a font of the system or Pillow's own, and ASCII for the characters it lacks."""

from __future__ import annotations

import bisect
import os
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from ipa_cli.errors import IpaError

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

BACKGROUND, TEXT, MUTED, LINE, ERROR = "#ffffff", "#16181d", "#5d6470", "#d9dce1", "#b3261e"
# From the one with most characters down: Linux, most of its desktops, servers, macOS and Windows.
SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf")


@lru_cache(maxsize=32)
def font(size: int) -> FreeTypeFont:
    """A font at `size` pixels: the first of `SYSTEM_FONTS` that is installed, else Pillow's own, which is ASCII only.

    Raises IpaError when Pillow was built without FreeType.
    """
    from PIL import ImageFont

    for name in SYSTEM_FONTS:
        try:
            # Below a folder that cannot exist, so that Pillow looks where the system keeps fonts and not first in the
            # working directory, which may be foreign.
            return ImageFont.truetype(f"{os.devnull}/{name}", size)
        except (OSError, ImportError):
            continue
    found = ImageFont.load_default(size)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise IpaError("this Pillow cannot write text: it was built without FreeType", "pip install --upgrade pillow")
    return found


def drawable(text: str, font: FreeTypeFont) -> str:
    """`text` with ASCII in place of the characters that `font` lacks: "Kase > naive"."""
    return "".join(
        character if has_glyph(character, font) else _transliterate(character)
        for character in unicodedata.normalize("NFC", text)
    )


@lru_cache(maxsize=4096)
def has_glyph(character: str, font: FreeTypeFont) -> bool:
    """Whether `font` draws this character as itself, not as the box that stands for all it lacks."""
    if not character.isprintable():  # lone surrogates too
        return False
    missing, drawn = font.getmask("\uffff"), font.getmask(character)  # U+FFFF is no character, and never will be
    return drawn.size != missing.size or bytes(drawn) != bytes(missing)


def _transliterate(character: str) -> str:
    from anyascii import anyascii

    found = anyascii(character) if character.isprintable() else ""
    invisible = unicodedata.category(character) in ("Cf", "Mn")  # joiners and accents without a letter
    return found or ("" if invisible else "?")


def clip(text: str, width: float, font: FreeTypeFont) -> str:
    """One drawable line of at most `width` pixels, with an ellipsis where it was cut."""
    text = drawable(" ".join(text.split()), font)
    if font.getlength(text) <= width:
        return text
    letters = _most(len(text), lambda count: font.getlength(text[:count].rstrip() + "…") <= width)
    return text[:letters].rstrip() + "…"


def wrap(text: str, width: float, lines: int, font: FreeTypeFont) -> list[str]:
    """At most `lines` lines of `width` pixels, broken at blanks; what is left of the text is clipped."""
    words = drawable(" ".join(text.split()), font).split()
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


def write(
    draw: ImageDraw,
    position: tuple[float, float],
    text: str,
    size: int,
    colour: str,
    width: float | None = None,
    anchor: str = "la",
) -> None:
    """Write one line of `size` pixels at `position`, clipped to `width` pixels where that is given.

    `anchor` is one of Pillow's, "la" for the top left and "lm" for the middle of the left side.
    """
    line = drawable(text, font(size)) if width is None else clip(text, width, font(size))
    draw.text(position, line, fill=colour, font=font(size), anchor=anchor)


def write_lines(
    draw: ImageDraw, left: float, top: float, lines: Sequence[str], size: int, colour: str, leading: float
) -> float:
    """Write lines below each other and return where the next would stand."""
    for line in lines:
        write(draw, (left, top), line, size, colour)
        top += leading
    return top
