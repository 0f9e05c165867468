"""The page a sweep leaves: one HTML file that works offline by double click and can make no request.

Its grid is whole without JavaScript; slider, comparison and enlarging are added by `page.js`. The policy in its head
allows this one script and style by their hashes, pictures as data, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from ipa_cli.sweep.difference import Change, Frozen
from ipa_cli.sweep.journal import PICTURES, Outcome
from ipa_cli.sweep.plan import Point, Row, Sweep, in_words, labels

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 24 << 20  # of PNG files put into the page as they are; more are shown as previews
PREVIEW_SIDE = 1024
PREVIEW_PIXELS = 250_000_000  # of all previews together: about as many bytes as MOST_BYTES
REFERENCE_SIDE = 256


def render(
    folder: Path,
    sweep: Sweep,
    outcomes: Mapping[int, Outcome],
    references: Sequence[Image | None],
    settings: Mapping[str, Any],
    changes: Sequence[Change],
    frozen: Sequence[Frozen],
) -> bytes:
    """The whole page; `references` are the pictures of `Sweep.references`, None for none.

    `settings` hold for every picture.
    """
    style, script = _resource("page.css"), _resource("page.js")
    change_to = {(change.row, change.after): change for change in changes}
    frozen_at = {(same.row, scale) for same in frozen for scale in same.scales}
    embed, embedded = _embedding(folder, outcomes)
    most = max((change.mean for change in changes), default=0.0)
    names = labels(sweep.references)
    shown = [(name.replace("_", " "), str(value)) for name, value in settings.items() if value not in ("", None)]

    def cell(point: Point) -> str:
        picture = _picture(sweep, names, point, outcomes.get(point.number), embed)
        key = (point.row.number, point.scale)
        return _cell(picture, change_to.get(key), key in frozen_at, most)

    points = iter(sweep.points)
    rows = [
        f"<tr>{_row_header(sweep, row, names)}{''.join(cell(next(points)) for _ in sweep.scales)}</tr>"
        for row in sweep.rows
    ]
    title = " · ".join(["Image-prompt scale", str(settings.get("model", ""))])
    page = Template(_resource("page.html")).substitute(
        policy="; ".join(
            [
                "default-src 'none'",
                "img-src data:",
                f"style-src '{_hash(style)}'",
                f"script-src '{_hash(script)}'",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        title=escape(title),
        subtitle=escape(f"{sweep.counted} · {settings.get('model', '')}"),
        style=style,
        script=script,
        alerts=_alerts(outcomes, frozen),
        summary=escape(in_sentence(changes)),
        columns="".join(f'<th scope="col">{escape(in_words(scale))}</th>' for scale in sweep.scales),
        rows="\n".join(rows),
        settings="".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in shown),
        embedded=escape(embedded),
        data=_data(sweep, outcomes, references, names, shown, change_to),
    )
    return page.encode("utf-8", "replace")


def in_sentence(changes: Sequence[Change]) -> str:
    """How much neighbouring scales differ over the whole sweep."""
    if not changes:
        return "There are no neighbouring scales to compare."
    means = [change.mean for change in changes]
    shares = [100 * change.share for change in changes]
    return (
        f"Neighbouring scales differ by {min(means):.2f} to {max(means):.2f} of 255 on average, "
        f"in {min(shares):.1f} to {max(shares):.1f} % of the pixels."
    )


# --- parts of the page ----------------------------------------------------------------------------------------


def _alerts(outcomes: Mapping[int, Outcome], frozen: Sequence[Frozen]) -> str:
    failed = [outcome for outcome in outcomes.values() if outcome.error is not None]
    parts = []
    if frozen:
        items = "".join(f"<li>{escape(str(same))}</li>" for same in frozen)
        parts.append(f'<section class="card alert" role="alert"><h2>The scale is frozen</h2><ul>{items}</ul></section>')
    if failed:
        items = "".join(
            f"<li>row {outcome.point.row.number}, scale {in_words(outcome.point.scale)}: "
            f"{escape(outcome.error or '')}</li>"
            for outcome in sorted(failed, key=lambda outcome: outcome.point.number)
        )
        title = "1 picture failed" if len(failed) == 1 else f"{len(failed)} pictures failed"
        parts.append(f'<section class="card alert" role="alert"><h2>{title}</h2><ul>{items}</ul></section>')
    return "\n".join(parts)


def _row_header(sweep: Sweep, row: Row, names: Sequence[str]) -> str:
    facts = [f"{row.width} × {row.height}", f"seed {row.seed}"]
    name, words = escape(names[row.reference]), escape(sweep.prompts[row.prompt])
    return (
        f'<th scope="row"><img class="thumb" data-reference="{row.reference}" alt="" hidden>'
        f'<span class="name">{row.number}. {name}</span><span class="facts">{" · ".join(facts)}</span>'
        f'<span class="words">{words}</span></th>'
    )


def _picture(
    sweep: Sweep, names: Sequence[str], point: Point, outcome: Outcome | None, embed: Callable[[Outcome], str]
) -> str:
    row = point.row
    if outcome is None or outcome.error is not None:
        return f'<p class="failure" data-failed="{point.number}">{escape(outcome.error or "") if outcome else ""}</p>'
    where = f"scale {in_words(point.scale)}, reference {names[row.reference]}, row {row.number}"
    what = f"{sweep.prompts[row.prompt]} — {where}"
    return (
        f'<button type="button" class="enlarge" data-point="{point.number}">'
        f'<img alt="{escape(what)}" width="{row.width}" height="{row.height}"'
        f' src="{embed(outcome)}"></button>'
    )


def _cell(picture: str, change: Change | None, frozen: bool, most: float) -> str:
    delta = ""
    if change is not None:
        words = f"Δ {change.mean:.2f}"
        title = (
            f"{change.mean:.2f} of 255 from scale {in_words(change.before)}, {100 * change.share:.1f} % of the pixels"
        )
        meter = f'<meter min="0" max="{most or 1:.4f}" value="{change.mean:.4f}" aria-hidden="true"></meter>'
        delta = f'<span title="{escape(title)}">{"same picture" if frozen and not change.mean else words}</span>{meter}'
    return f'<td{" class=frozen" if frozen else ""}>{picture}<div class="delta">{delta}</div></td>'


def _data(
    sweep: Sweep,
    outcomes: Mapping[int, Outcome],
    references: Sequence[Image | None],
    names: Sequence[str],
    settings: Sequence[tuple[str, str]],
    change_to: Mapping[tuple[int, float], Change],
) -> str:
    """What the script needs, as JSON that cannot end its own element."""
    column = {scale: number for number, scale in enumerate(sweep.scales)}

    def entry(point: Point) -> dict[str, Any]:
        outcome = outcomes.get(point.number)
        change = change_to.get((point.row.number, point.scale))
        return {
            "number": point.number,
            "row": point.row.number - 1,
            "column": column[point.scale],
            "file": point.file,
            "sha256": outcome and outcome.sha256,
            "error": outcome and outcome.error,
            "before": change and column[change.before],
            "mean": change and round(change.mean, 4),
            "share": change and round(change.share, 6),
        }

    data = {
        "scales": sweep.scales,
        "labels": [in_words(scale) for scale in sweep.scales],
        "prompts": sweep.prompts,
        "references": [
            {"name": name, "source": source, "src": _small(picture) if picture else ""}
            for name, source, picture in zip(names, sweep.references, references, strict=True)
        ],
        "rows": [
            {
                "label": _row_label(sweep, row, names),
                "reference": row.reference,
                "prompt": row.prompt,
                "width": row.width,
                "height": row.height,
                "seed": row.seed,
            }
            for row in sweep.rows
        ],
        "points": [entry(point) for point in sweep.points],
        "settings": settings,
    }
    return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")


def _row_label(sweep: Sweep, row: Row, names: Sequence[str]) -> str:
    parts = [f"{row.number}. {names[row.reference]}"]
    if len(sweep.sizes) > 1:
        parts.append(f"{row.width} × {row.height}")
    if len(sweep.seeds) > 1:
        parts.append(f"seed {row.seed}")
    if len(sweep.prompts) > 1:
        words = sweep.prompts[row.prompt]
        parts.append(words if len(words) <= 60 else words[:59] + "…")
    return " · ".join(parts)


# --- pictures as data -----------------------------------------------------------------------------------------


def _embedding(folder: Path, outcomes: Mapping[int, Outcome]) -> tuple[Callable[[Outcome], str], str]:
    """How to put a picture into the page, and that in words: as it is, or in large sweeps as a smaller WebP."""
    drawn = [outcome for outcome in outcomes.values() if outcome.error is None]
    total = sum((folder / outcome.point.file).stat().st_size for outcome in drawn)
    if total <= MOST_BYTES:

        def whole(outcome: Outcome) -> str:
            return _uri("png", (folder / outcome.point.file).read_bytes())

        return whole, f"The pictures are in this page as they are in {PICTURES}/."

    side = max(64, min(PREVIEW_SIDE, math.isqrt(PREVIEW_PIXELS // len(drawn))))

    def preview(outcome: Outcome) -> str:
        from PIL import Image

        with Image.open(folder / outcome.point.file, formats=["PNG"]) as picture:
            return _webp(picture, side)

    return preview, f"This page shows previews of at most {side} pixels; the pictures themselves are in {PICTURES}/."


def _small(picture: Image) -> str:
    return _webp(picture, REFERENCE_SIDE)


def _webp(picture: Image, side: int) -> str:
    preview = picture.convert("RGB")
    preview.thumbnail((side, side))
    buffer = io.BytesIO()
    preview.save(buffer, "WEBP", quality=85, method=4)
    return _uri("webp", buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _resource(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")
