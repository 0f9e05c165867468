"""What `--preset` takes: names of settings that save work with any model, and kinds of models for a few steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipa_cli.config.checks import Choice
from ipa_cli.config.setting import PICTURE, setting

# Chosen by the table of docs/presets.md. All name the same settings, so that one takes the place of another.
SPEED: Mapping[str, Mapping[str, Any]] = {
    "exact": {"step_cache": "none"},
    "balanced": {"step_cache": "forecast:2"},
    "fast": {"step_cache": "forecast:3"},
}
FEW_STEP = ("few-step", *("lcm", "tcd", "turbo", "lightning", "hyper-sd", "hyper-sd-cfg", "hyper-sd-unet", "dmd2"))

PRESET: str | None = setting(
    PICTURE,
    "how much work to save with any model: exact, balanced or fast; or what a model for few steps needs: few-step (by "
    "its name), lcm, turbo, lightning, …",
    None,
    Choice((*SPEED, *FEW_STEP)),
    metavar="NAME",
)


def preset_values(preset: str | None) -> Mapping[str, Any]:
    """The settings that a preset stands for, each unless it is given beside it; none for a model for a few steps."""
    return SPEED.get(preset or "", {})


def with_preset_values(given: Mapping[str, Any], before: str | None) -> dict[str, Any]:
    """The settings `given`, with those that their preset stands for, in place of those of the preset `before`."""
    undone = SPEED["exact"] if before in SPEED and given.get("preset") else {}
    return {**undone, **preset_values(given.get("preset")), **given}
