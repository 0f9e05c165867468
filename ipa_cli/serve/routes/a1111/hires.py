"""A1111's hires fix: its fields in a body of txt2img."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from ipa_cli.config import hires
from ipa_cli.config.checks import short
from ipa_cli.errors import UsageError
from ipa_cli.serve.body import validated

# Fields that would draw the second pass otherwise than the first; they say nothing in A1111 where they are so.
OTHERWISE = (
    *("hr_checkpoint_name", "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt"),
    "hr_additional_modules",
)
SAME = "use same"  # how A1111 begins such values
MOST = 100_000  # pixels that are looked at; a picture has fewer


class SecondPass(BaseModel):
    """The fields of hires fix, with A1111's defaults."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    enable_hr: bool | None = False
    hr_scale: float | None = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int | None = 0
    hr_resize_x: int | None = 0
    hr_resize_y: int | None = 0
    hr_cfg: float | None = None
    denoising_strength: float | None = None


def settings(
    fields: Mapping[str, Any], size: tuple[int | None, int | None], guidance: float | None, begun: bool
) -> dict[str, Any]:
    """The settings of the second pass that the further fields of a body ask for.

    `size` and `guidance` are those of the first, `begun`: it begins with a picture. Raises UsageError for
    what is not offered.
    """
    asked = validated(SecondPass, fields)
    if not asked.enable_hr:
        return {}
    if begun:
        raise UsageError("enable_hr is for txt2img: its denoising_strength is that of the second pass", "leave it out")
    for name in OTHERWISE:
        if not _is_same(fields.get(name)):
            raise UsageError(f"{name} would draw the second pass otherwise, which is not offered here", "leave it out")
    if asked.hr_cfg not in (None, 0, guidance):
        raise UsageError(f"hr_cfg {asked.hr_cfg:g} is not offered here", "leave it out: the second pass has cfg_scale")
    upscaler = hires.of_a1111(asked.hr_upscaler or "Latent")
    if upscaler is None:
        offered = ", ".join(one.a1111 for one in hires.UPSCALERS.values())
        raise UsageError(f"there is no upscaler '{short(asked.hr_upscaler)}' here", f"offered are {offered}")
    resize = min(asked.hr_resize_x or 0, MOST), min(asked.hr_resize_y or 0, MOST)
    scale = 2.0 if asked.hr_scale is None else asked.hr_scale
    try:
        asked_size = hires.from_a1111(scale, resize, size)
    except ValueError as error:
        raise UsageError(f"hr_resize_x and hr_resize_y: {error}", "send both, or width and height") from None
    return {
        "hires": asked_size,
        "hires_upscaler": upscaler,
        "hires_steps": asked.hr_second_pass_steps or None,
        "hires_strength": asked.denoising_strength,
    }


def _is_same(value: Any) -> bool:
    several = value if isinstance(value, list) else [value]
    return all(not one or str(one).casefold().startswith(SAME) for one in several)
