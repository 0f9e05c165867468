"""The contact sheet: a row for every conditioning, a column for every scale, readable by itself."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ipa_cli.images.drawing import BACKGROUND, ERROR, LINE, MUTED, TEXT, font, wrap, write, write_lines
from ipa_cli.sweep.journal import Outcome
from ipa_cli.sweep.plan import Row, Sweep, format_scale, labels

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw as Pen

CELL = 256  # longest side of a picture on the sheet
SMALLEST = 48
MAX_PIXELS = 100_000_000  # of the whole sheet: viewers and memory cope
MAX_SIDE = 30_000
GAP, MARGIN, HEADER, LABEL = 12, 28, 96, 220


def draw(
    folder: Path, sweep: Sweep, outcomes: Mapping[int, Outcome], references: Sequence[Image | None], subtitle: str
) -> bytes:
    """The sheet as PNG, the same bytes for the same pictures; `references` are those of `Sweep.references`."""
    from PIL import Image, ImageDraw

    cell = _cell(sweep)
    columns = len(sweep.scales)
    heights = [max(_fit(row, cell)[1], _text_height(cell)) + GAP for row in sweep.rows]
    width = max(2 * MARGIN + LABEL + columns * (cell + GAP), 480)
    sheet = Image.new("RGB", (width, 2 * MARGIN + HEADER + sum(heights)), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    _draw_header(pen, sweep, subtitle, width, cell)

    names = labels(sweep.references)
    points = iter(sweep.points)
    top = MARGIN + HEADER
    for row, height in zip(sweep.rows, heights, strict=True):
        pen.line((MARGIN, top - GAP / 2, width - MARGIN, top - GAP / 2), fill=LINE)
        _draw_label(sheet, pen, row, sweep, names[row.reference], references[row.reference], top, cell)
        for column in range(columns):
            place = (MARGIN + LABEL + column * (cell + GAP), top)
            outcome = outcomes.get(next(points).number)
            _draw_cell(sheet, pen, folder, row, outcome, place, cell)
        top += height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _cell(sweep: Sweep) -> int:
    """The side of a cell: as large as the limits of the whole sheet allow."""
    cell = CELL
    while cell > SMALLEST:
        width = 2 * MARGIN + LABEL + len(sweep.scales) * (cell + GAP)
        height = 2 * MARGIN + HEADER + sum(max(_fit(row, cell)[1], _text_height(cell)) + GAP for row in sweep.rows)
        if width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE:
            break
        cell -= 16
    return cell


def _fit(row: Row, cell: int) -> tuple[int, int]:
    factor = cell / max(row.width, row.height)
    return max(1, round(row.width * factor)), max(1, round(row.height * factor))


def _text_height(cell: int) -> int:
    return 112 if cell > 96 else 48


def _draw_header(pen: Pen, sweep: Sweep, subtitle: str, width: int, cell: int) -> None:
    inner = width - 2 * MARGIN
    write(pen, (MARGIN, MARGIN - 4), "Image-prompt scale", 24, TEXT, inner)
    shared = [sweep.prompts[0]] if len(sweep.prompts) == 1 else []
    write(pen, (MARGIN, MARGIN + 28), " · ".join([*shared, subtitle]), 14, MUTED, inner)
    for column, scale in enumerate(sweep.scales):
        left = MARGIN + LABEL + column * (cell + GAP)
        write(pen, (left, MARGIN + HEADER - 32), format_scale(scale), 18, TEXT, cell)
    write(pen, (MARGIN, MARGIN + HEADER - 30), "scale", 14, MUTED)


def _draw_label(
    sheet: Image,
    pen: Pen,
    row: Row,
    sweep: Sweep,
    name: str,
    reference: Image | None,
    top: int,
    cell: int,
) -> None:
    from PIL import ImageOps

    side, left = 0, MARGIN
    if reference is not None:
        side = 64 if cell > 96 else 32
        sheet.paste(ImageOps.contain(reference.convert("RGB"), (side, side)), (MARGIN, top))
        left += side + 10
    width = MARGIN + LABEL - 12 - left
    write(pen, (left, top - 1), f"{row.number}. {name}", 13, TEXT, width)
    varying = []
    if len(sweep.sizes) > 1:
        varying.append(f"{row.width}x{row.height}")
    if len(sweep.seeds) > 1:
        varying.append(f"seed {row.seed}")
    varying += sweep.facts(row)
    below = write_lines(pen, left, top + 18, varying, 12, MUTED, 16)
    if len(sweep.prompts) > 1 and cell > 96:
        below = max(below, top + side) + 4
        lines = wrap(sweep.prompts[row.prompt], LABEL - 16, int((top + _text_height(cell) - below) // 16), font(12))
        write_lines(pen, MARGIN, below, lines, 12, MUTED, 16)


def _draw_cell(
    sheet: Image,
    pen: Pen,
    folder: Path,
    row: Row,
    outcome: Outcome | None,
    place: tuple[int, int],
    cell: int,
) -> None:
    from PIL import Image

    left, top = place
    width, height = _fit(row, cell)
    if outcome is not None and outcome.error is None:
        with Image.open(folder / outcome.point.file, formats=["PNG"]) as picture:
            sheet.paste(picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), place)
        return
    pen.rectangle((left, top, left + width - 1, top + height - 1), outline=ERROR if outcome else LINE)
    if outcome is not None:
        write(pen, (left + 10, top + 8), "failed", 14, ERROR)
        lines = wrap(outcome.error or "", width - 20, max(1, (height - 34) // 16), font(12))
        write_lines(pen, left + 10, top + 28, lines, 12, MUTED, 16)
