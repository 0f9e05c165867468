"""The files of a sweep for people to look at: a contact sheet, an animation for each row, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ipa_cli.sweep import animation, difference, journal, page, sheet
from ipa_cli.sweep.difference import Change, Frozen
from ipa_cli.sweep.journal import Outcome
from ipa_cli.sweep.plan import Sweep
from ipa_cli.sweep.reference_sets import ReferenceSet

# Entries of the plan that the grid shows itself or that are of no interest on the page.
HIDDEN = (
    "scales",
    "references",
    "prompts",
    "sizes",
    "seeds",
    journal.REFERENCE_DIGESTS,
    "load_format",
    "masks",
)

# Axes that the grid shows where they have several entries.
AXES_OF_SETTINGS = ("lora_weights", "modes", "control_scales")


def write(
    folder: Path,
    sweep: Sweep,
    described: Mapping[str, Any],
    outcomes: Mapping[int, Outcome],
    reference_sets: Sequence[ReferenceSet],
    changes: Sequence[Change],
    frozen: Sequence[Frozen],
) -> None:
    """Write the contact sheet, an animation per row, and the page; `described` is the plan of `sweep.json`."""
    references = [references.picture for references in reference_sets]
    shown = common_settings(described)
    subtitle = " · ".join(str(shown[name]) for name in ("model", "device", "dtype", "backend") if name in shown)
    journal.write(folder / journal.SHEET, sheet.draw(folder, sweep, outcomes, references, subtitle))
    for number, row in difference.completed_rows(outcomes).items():
        if len(row) > 1:
            journal.write(folder / animation.file_name(sweep, number), animation.animate(folder, row))
    rendered = page.render(folder, sweep, outcomes, references, shown, changes, frozen)
    journal.write(folder / journal.PAGE, rendered)


def common_settings(described: Mapping[str, Any]) -> dict[str, Any]:
    """What the plan says of all pictures: no axes, lists as their distinct entries, nothing that is empty."""
    axes = {name: described.get(name) for name in AXES_OF_SETTINGS}
    varied = {name for name, axis in axes.items() if isinstance(axis, list) and len(axis) > 1}
    hidden = {*HIDDEN, *varied, *(("ip_mode",) if "modes" in varied else ())}
    common = {name: _text(value) for name, value in described.items() if name not in hidden}
    return {name: value for name, value in common.items() if value}


def _text(value: Any) -> str:
    """A value of the plan for people; empty for what was not asked for."""
    if value is None or value is False:
        return ""
    if isinstance(value, list):
        between = "; " if any(isinstance(one, Mapping) for one in value) else ", "
        return between.join(dict.fromkeys(filter(None, map(_text, value))))
    if not isinstance(value, Mapping):
        return str(value)
    if "source" in value:  # a picture or file, with its digest
        return str(value["source"])
    texts = {name.replace("_", " "): _text(one) for name, one in value.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items() if text)
