"""A bench as bars: a panel for each figure worth a look, a bar for each backend, a line from least to most."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ipa_cli.bench.metrics import METRICS, Metric
from ipa_cli.bench.results import BackendResult, BenchResults
from ipa_cli.bench.table import NOT_MEASURED, heading
from ipa_cli.images.drawing import BACKGROUND, LINE, MUTED, TEXT, write

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw as Pen

PANELS = ("it_per_s", "e2e_s", "warmup_compile_s", "warmup_cache_s", "peak_gib")
COLOURS = ("#9aa3b2", "#4c72b0", "#dd8452", "#55a868", "#8172b3", "#937860")
WIDTH, MARGIN, LABEL, NUMBER = 960, 28, 230, 190
HEADER, TITLE, BAR, GAP = 72, 30, 24, 10


def draw(results: BenchResults) -> bytes:
    """The chart as PNG."""
    from PIL import Image, ImageDraw

    panels = [metric for metric in METRICS if metric.name in PANELS and _bars(results, metric)]
    heights = [TITLE + len(_bars(results, metric)) * (BAR + GAP) + 2 * GAP for metric in panels]
    chart = Image.new("RGB", (WIDTH, MARGIN * 2 + HEADER + sum(heights)), BACKGROUND)
    pen = ImageDraw.Draw(chart)
    write(pen, (MARGIN, MARGIN - 4), "ipa bench", 24, TEXT)
    write(pen, (MARGIN, MARGIN + 30), heading(results), 14, MUTED, WIDTH - 2 * MARGIN)
    top = MARGIN + HEADER
    for metric, height in zip(panels, heights, strict=True):
        _panel(pen, results, metric, top)
        top += height
    buffer = io.BytesIO()
    chart.save(buffer, "PNG")
    return buffer.getvalue()


def _bars(results: BenchResults, metric: Metric) -> list[tuple[int, BackendResult]]:
    """The backends with a bar, each with its number, unless the panel would be empty."""
    bars = [(number, backend) for number, backend in enumerate(results.backends) if backend.is_applicable(metric)]
    return bars if any(backend.figure(metric) for _, backend in bars) else []


def _panel(pen: Pen, results: BenchResults, metric: Metric, top: float) -> None:
    pen.line((MARGIN, top, WIDTH - MARGIN, top), fill=LINE)
    better = "higher is better" if metric.higher_is_better else "lower is better"
    write(pen, (MARGIN, top + GAP), f"{metric.title} ({metric.unit}, {better})", 15, TEXT)
    bars = _bars(results, metric)
    most = max(figure.most for _, backend in bars if (figure := backend.figure(metric)))
    room = WIDTH - 2 * MARGIN - LABEL - NUMBER
    top += TITLE + GAP
    for number, backend in bars:
        figure, left, middle = backend.figure(metric), MARGIN + LABEL, top + BAR / 2
        write(pen, (MARGIN, middle), backend.spec.text, 14, TEXT, LABEL - 12, "lm")
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
        ratio = results.ratio(backend, metric)
        text = f"{figure.median:.{metric.digits}f} {metric.unit}" + (f" ({ratio:+.1%})" if ratio is not None else "")
        write(pen, (max(end, high) + 10, middle), text, 14, TEXT, anchor="lm")
        top += BAR + GAP
