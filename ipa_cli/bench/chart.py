"""A bench as bars: a panel for each figure worth a look, a bar for each backend, a line from least to most."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ipa_cli.bench.results import METRICS, Bench, Column, Metric
from ipa_cli.bench.table import NOT_MEASURED, heading
from ipa_cli.images.drawing import BACKGROUND, LINE, MUTED, TEXT, write

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw as Pen

PANELS = ("it_per_s", "e2e_s", "warmup_compile_s", "warmup_cache_s", "peak_gib")
COLOURS = ("#9aa3b2", "#4c72b0", "#dd8452", "#55a868", "#8172b3", "#937860")
WIDTH, MARGIN, LABEL, NUMBER = 960, 28, 230, 190
HEADER, TITLE, BAR, GAP = 72, 30, 24, 10


def draw(bench: Bench) -> bytes:
    """The chart as PNG."""
    from PIL import Image, ImageDraw

    panels = [metric for metric in METRICS if metric.name in PANELS and _bars(bench, metric)]
    heights = [TITLE + len(_bars(bench, metric)) * (BAR + GAP) + 2 * GAP for metric in panels]
    chart = Image.new("RGB", (WIDTH, MARGIN * 2 + HEADER + sum(heights)), BACKGROUND)
    pen = ImageDraw.Draw(chart)
    write(pen, (MARGIN, MARGIN - 4), "ipa bench", 24, TEXT)
    write(pen, (MARGIN, MARGIN + 30), heading(bench), 14, MUTED, WIDTH - 2 * MARGIN)
    top = MARGIN + HEADER
    for metric, height in zip(panels, heights, strict=True):
        _panel(pen, bench, metric, top)
        top += height
    buffer = io.BytesIO()
    chart.save(buffer, "PNG")
    return buffer.getvalue()


def _bars(bench: Bench, metric: Metric) -> list[tuple[int, Column]]:
    """The columns with a bar, each with its number, unless the panel would be empty."""
    meant = [(number, column) for number, column in enumerate(bench.columns) if not column.lacks(metric)]
    return meant if any(column.figure(metric) for _, column in meant) else []


def _panel(pen: Pen, bench: Bench, metric: Metric, top: float) -> None:
    pen.line((MARGIN, top, WIDTH - MARGIN, top), fill=LINE)
    better = "higher is better" if metric.better == "more" else "lower is better"
    write(pen, (MARGIN, top + GAP), f"{metric.title} ({metric.unit}, {better})", 15, TEXT)
    bars = _bars(bench, metric)
    most = max(figure.most for _, column in bars if (figure := column.figure(metric)))
    room = WIDTH - 2 * MARGIN - LABEL - NUMBER
    top += TITLE + GAP
    for number, column in bars:
        figure, left, middle = column.figure(metric), MARGIN + LABEL, top + BAR / 2
        write(pen, (MARGIN, middle), column.spec.text, 14, TEXT, LABEL - 12, "lm")
        if figure is None:
            write(pen, (left, middle), NOT_MEASURED, 14, MUTED, anchor="lm")
            top += BAR + GAP
            continue
        end, low, high = (
            left + room * (value / most if most else 0) for value in (figure.median, figure.least, figure.most)
        )
        pen.rectangle((left, top, max(left + 1, end), top + BAR), fill=COLOURS[number % len(COLOURS)])
        if figure.count > 1:
            pen.line((low, middle, high, middle), fill=TEXT, width=2)
            for place in (low, high):
                pen.line((place, middle - 5, place, middle + 5), fill=TEXT, width=2)
        ratio = bench.ratio(column, metric)
        text = f"{figure.median:.{metric.digits}f} {metric.unit}" + (f" ({ratio:+.1%})" if ratio is not None else "")
        write(pen, (max(end, high) + 10, middle), text, 14, TEXT, anchor="lm")
        top += BAR + GAP
