"""One animated WebP per row: the scale rises, a strip below says where it stands."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ipa_cli.images.drawing import BACKGROUND, LINE, MUTED, TEXT, write
from ipa_cli.sweep.journal import ANIMATIONS, Outcome
from ipa_cli.sweep.plan import Sweep, format_scale

if TYPE_CHECKING:
    from PIL.Image import Image

FRAME_MS, LAST_MS = 500, 1200
STRIP = 40


def file_name(sweep: Sweep, row: int) -> str:
    """Where the animation of a row, counted from 1, goes: relative to the sweep's folder."""
    return f"{ANIMATIONS}/{sweep.stem(sweep.rows[row - 1])}.webp"


def animate(folder: Path, outcomes: Sequence[Outcome]) -> bytes:
    """The pictures of one row as WebP that loops; at least two. Equal pictures give equal bytes."""
    scales = [outcome.point.scale for outcome in outcomes]
    frames = [_frame(folder / outcome.point.file, outcome.point.scale, scales) for outcome in outcomes]
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    buffer = io.BytesIO()
    first, *others = frames
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, quality=88, method=4)
    return buffer.getvalue()


def _frame(path: Path, scale: float, scales: Sequence[float]) -> Image:
    from PIL import Image, ImageDraw

    with Image.open(path, formats=["PNG"]) as picture:
        width, height = picture.size
        frame = Image.new("RGB", (width, height + STRIP), BACKGROUND)
        frame.paste(picture.convert("RGB"), (0, 0))
    pen = ImageDraw.Draw(frame)
    write(pen, (12, height + 10), "scale", 16, MUTED)
    write(pen, (60, height + 10), format_scale(scale), 16, TEXT)
    left, right, middle = 132, width - 16, height + STRIP // 2
    if right - left >= 40:
        along = left + (right - left) * (scale - scales[0]) / (scales[-1] - scales[0])
        pen.line((left, middle, right, middle), fill=LINE, width=4)
        pen.line((left, middle, along, middle), fill=TEXT, width=4)
        pen.ellipse((along - 7, middle - 7, along + 7, middle + 7), fill=TEXT)
    return frame
