"""The page a sweep leaves: one HTML file that works offline by double click and can make no request.

Its grid is whole without JavaScript; slider, comparison and enlarging are added by `page.js`. The policy in its head
allows this one script and style by their hashes, pictures as data, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.sweep import image_data
from ipa_cli.sweep.difference import Change, Frozen
from ipa_cli.sweep.journal import Outcome
from ipa_cli.sweep.plan import Point, Row, Sweep, format_scale, labels

if TYPE_CHECKING:
    import jinja2
    from PIL.Image import Image

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
    from markupsafe import Markup

    templates = _templates()
    style, script = (_source(templates, name) for name in ("page.css", "page.js"))
    embed, images_note = image_data.embedder(folder, outcomes)
    change_to = {(change.row, change.after): change for change in changes}
    shown = [(name.replace("_", " "), str(value)) for name, value in settings.items() if value not in ("", None)]
    failed = [outcome for _, outcome in sorted(outcomes.items()) if outcome.error is not None]
    page = templates.get_template("page.html").render(
        policy=_policy(style, script),
        title=" · ".join(["Image-prompt scale", str(settings.get("model", ""))]),
        subtitle=f"{sweep.summary} · {settings.get('model', '')}",
        style=Markup(style),  # the hash in the policy is of these very bytes
        script=Markup(script),
        frozen=[str(same) for same in frozen],
        failures=[
            f"row {outcome.point.row.number}, scale {format_scale(outcome.point.scale)}: {outcome.error}"
            for outcome in failed
        ],
        summary=summarize(changes),
        scale_labels=[format_scale(scale) for scale in sweep.scales],
        rows=_rows(sweep, outcomes, embed, change_to, frozen),
        largest_change=max((change.mean for change in changes), default=0.0) or 1.0,
        settings=shown,
        images_note=images_note,
        data=_script_data(sweep, outcomes, references, shown, change_to),
    )
    return page.encode("utf-8", "replace")


def summarize(changes: Sequence[Change]) -> str:
    """How much neighbouring scales differ over the whole sweep, in a sentence."""
    if not changes:
        return "There are no neighbouring scales to compare."
    means = [change.mean for change in changes]
    shares = [100 * change.share for change in changes]
    return (
        f"Neighbouring scales differ by {min(means):.2f} to {max(means):.2f} of 255 on average, "
        f"in {min(shares):.1f} to {max(shares):.1f} % of the pixels."
    )


# --- the grid -------------------------------------------------------------------------------------------------


def _rows(
    sweep: Sweep,
    outcomes: Mapping[int, Outcome],
    embed: Callable[[Outcome], str],
    change_to: Mapping[tuple[int, float], Change],
    frozen: Sequence[Frozen],
) -> list[dict[str, Any]]:
    """The rows of the grid as the template shows them, a cell for every scale."""
    names = labels(sweep.references)
    frozen_at = {(same.row, scale) for same in frozen for scale in same.scales}
    points = iter(sweep.points)

    def cell(row: Row, point: Point) -> dict[str, Any]:
        outcome, key = outcomes.get(point.number), (row.number, point.scale)
        where = f"scale {format_scale(point.scale)}, reference {names[row.reference]}, row {row.number}"
        return {
            "number": point.number,
            "alt": f"{sweep.prompts[row.prompt]} — {where}",
            "src": embed(outcome) if outcome is not None and outcome.error is None else "",
            "error": (outcome and outcome.error) or "",
            "frozen": key in frozen_at,
            "change": _change(change_to[key], key in frozen_at) if key in change_to else None,
        }

    return [
        {
            "number": row.number,
            "name": names[row.reference],
            "reference": row.reference,
            "prompt": sweep.prompts[row.prompt],
            "width": row.width,
            "height": row.height,
            "seed": row.seed,
            "facts": sweep.facts(row),
            "cells": [cell(row, next(points)) for _ in sweep.scales],
        }
        for row in sweep.rows
    ]


def _change(change: Change, frozen: bool) -> dict[str, Any]:
    from_scale = f"from scale {format_scale(change.before)}"
    return {
        "mean": change.mean,
        "text": "same picture" if frozen and not change.mean else f"Δ {change.mean:.2f}",
        "title": f"{change.mean:.2f} of 255 {from_scale}, {100 * change.share:.1f} % of the pixels",
    }


# --- what the script needs ------------------------------------------------------------------------------------


def _script_data(
    sweep: Sweep,
    outcomes: Mapping[int, Outcome],
    references: Sequence[Image | None],
    settings: Sequence[tuple[str, str]],
    change_to: Mapping[tuple[int, float], Change],
) -> dict[str, Any]:
    names = labels(sweep.references)
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

    return {
        "scales": sweep.scales,
        "labels": [format_scale(scale) for scale in sweep.scales],
        "prompts": sweep.prompts,
        "references": [
            {
                "name": name,
                "source": source,
                "src": image_data.thumbnail(picture, REFERENCE_SIDE) if picture else "",
            }
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
                "values": {name.replace("_", " "): value for name, value in sweep.own_values(row).items()},
            }
            for row in sweep.rows
        ],
        "points": [entry(point) for point in sweep.points],
        "settings": settings,
    }


def _row_label(sweep: Sweep, row: Row, names: Sequence[str]) -> str:
    parts = [f"{row.number}. {names[row.reference]}"]
    if len(sweep.sizes) > 1:
        parts.append(f"{row.width} × {row.height}")
    if len(sweep.seeds) > 1:
        parts.append(f"seed {row.seed}")
    parts += sweep.facts(row)
    if len(sweep.prompts) > 1:
        prompt = sweep.prompts[row.prompt]
        parts.append(prompt if len(prompt) <= 60 else prompt[:59] + "…")
    return " · ".join(parts)


# --- templates ------------------------------------------------------------------------------------------------


def _templates() -> jinja2.Environment:
    """Templates of this package; whatever they show is escaped, and a misspelt name is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("ipa_cli.sweep"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False}  # in their order
    return templates


def _source(templates: jinja2.Environment, name: str) -> str:
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0]


def _policy(style: str, script: str) -> str:
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
