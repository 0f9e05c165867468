"""The body of txt2img, and what it asks for here. Clients send all sixty fields, most of them saying nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ipa_cli.config.checks import short
from ipa_cli.errors import UsageError
from ipa_cli.serve.asked import Asked, picture_format
from ipa_cli.serve.routes.a1111 import hires, options, sampling, units
from ipa_cli.serve.service import Service

# Fields that would change the picture, and are not offered: all but these values are refused.
OFF: tuple[Any, ...] = (None, False, 0, -1, "", "None", "none", [], {})
CHANGING = {
    "restore_faces": "face restoration",
    "tiling": "tiling",
    "styles": "a style",
    "subseed_strength": "a variation of the seed",
    "seed_resize_from_h": "a seed of another size",
    "seed_resize_from_w": "a seed of another size",
    "script_name": "a script",
    "refiner_checkpoint": "a refiner",
    "s_churn": "churn",
    "s_min_uncond": "a limit of guidance by noise",
    "infotext": "an infotext",
    "disable_extra_networks": "LoRAs as words",
    "init_images": "img2img",
    "controlnet_units": "units outside of alwayson_scripts",
}
# Fields that say nothing unless one of the others does, or nothing at all here.
IDLE = (
    *("do_not_save_samples", "do_not_save_grid", "override_settings_restore_afterwards", "force_task_id", "comments"),
    *("subseed", "script_args", "refiner_switch_at", "firstphase_width", "firstphase_height", "denoising_strength"),
    *("enable_hr",),
    *("s_tmin", "s_tmax", "s_noise", "distilled_cfg_scale", "hr_scale", "hr_upscaler", "hr_second_pass_steps"),
    *("hr_resize_x", "hr_resize_y", "hr_checkpoint_name", "hr_sampler_name", "hr_scheduler", "hr_prompt"),
    *("hr_negative_prompt", "hr_cfg", "hr_additional_modules"),
)


class TextToImage(BaseModel):
    """A request for pictures; what is left out is the model's, not A1111's 512x512 and 50 steps."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = Field(-1, description="-1 is random")
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    batch_size: int = Field(1, ge=1, description="pictures drawn at once")
    n_iter: int = Field(1, ge=1, description="number of batches")
    sampler_name: str | None = None
    sampler_index: str | None = Field(None, description="older name of sampler_name")
    scheduler: str | None = None
    eta: float | None = None
    alwayson_scripts: dict[str, Any] | None = Field(None, description="controlnet, with IP-Adapter units")
    override_settings: dict[str, Any] | None = None
    send_images: bool = True
    save_images: bool = Field(False, description="nothing is saved on the server")


class ImageToImage(TextToImage):
    """A request for pictures that begin with another one."""

    init_images: list[str] | None = Field(None, description="one picture in base64")
    denoising_strength: float = 0.75
    mask: str | None = Field(None, description="white where the picture is redrawn")
    mask_blur: float = 4
    inpainting_mask_invert: int | None = 0
    inpainting_fill: int | None = Field(0, description="with a mask only 1, original, is offered")
    inpaint_full_res: bool | None = Field(True, description="with a mask only false is offered")
    initial_noise_multiplier: float | None = 1


IDLE_OF_INIT = ("resize_mode", "image_cfg_scale", "include_init_images", "inpaint_full_res_padding", "mask_blur_x")


@dataclass(frozen=True)
class Understood:
    """What a body asks for, and what it says that has no effect."""

    asked: Asked
    warnings: tuple[str, ...]


def understood(wanted: TextToImage, service: Service) -> Understood:
    """What a request means on this server. Raises UsageError and Refused for what is not offered."""
    extra = wanted.model_extra or {}
    for name, what in CHANGING.items():
        if extra.get(name) not in OFF:
            raise UsageError(f"{name} asks for {what}, which is not offered here", "leave it out")
    overridden = options.overridden(wanted.override_settings or {}, service)
    followed = _scripts(wanted.alwayson_scripts or {}, service)
    begun = _init(wanted) if isinstance(wanted, ImageToImage) else {}
    values = {
        "prompt": wanted.prompt,
        "negative_prompt": wanted.negative_prompt,
        "seed": None if wanted.seed == -1 else wanted.seed,
        "steps": wanted.steps,
        "guidance_scale": wanted.cfg_scale,
        "width": wanted.width,
        "height": wanted.height,
        "batch_size": wanted.batch_size,
        "num_images": wanted.batch_size * wanted.n_iter,
        **sampling.settings(wanted.sampler_name or wanted.sampler_index, wanted.scheduler, wanted.eta),
        **followed.values,
        **begun,
        **hires.settings(extra, (wanted.width, wanted.height), wanted.cfg_scale, bool(begun)),
    }
    warnings = [*overridden.warnings, *followed.warnings]
    if wanted.save_images:
        warnings.append("nothing is saved on the server: save_images has no effect")
    if unknown := [name for name in extra if name not in (*CHANGING, *IDLE, *(IDLE_OF_INIT if begun else ()))]:
        warnings.append(f"unknown fields have no effect: {short(', '.join(unknown))}")
    asked = Asked(
        {name: value for name, value in values.items() if value is not None},
        format=picture_format(overridden.format),
        quality=overridden.quality,
    )
    return Understood(asked, tuple(warnings))


def _init(wanted: ImageToImage) -> dict[str, Any]:
    """The settings of a picture to begin with. Raises UsageError for other ways to redraw it."""
    pictures = wanted.init_images or []
    if len(pictures) != 1:
        raise UsageError(f"init_images has {len(pictures)} pictures", "send one")
    if wanted.initial_noise_multiplier not in (None, 1):
        raise UsageError("initial_noise_multiplier is not offered here", "leave it out, or send 1")
    begun: dict[str, Any] = {"init_image": pictures[0], "strength": wanted.denoising_strength}
    if not wanted.mask:
        return begun
    for name, offered in (("inpainting_mask_invert", 0), ("inpainting_fill", 1), ("inpaint_full_res", False)):
        if getattr(wanted, name) not in (None, offered):
            raise UsageError(f"{name} {getattr(wanted, name)} is not offered here", f"send {offered}")
    return {**begun, "inpaint_mask": wanted.mask, "mask_blur": wanted.mask_blur}


def _each(arguments: Any) -> Iterable[Any]:
    """The arguments of a script: those of a list or of a mapping, or the one that is there instead."""
    if isinstance(arguments, Mapping):
        return arguments.values()
    return arguments if isinstance(arguments, list) else (arguments,)


def _scripts(scripts: Mapping[str, Any], service: Service) -> units.Followed:
    """What the scripts of a body ask for: only ControlNet's, with IP-Adapters. Raises UsageError for others."""
    found, idle = units.Followed(), []
    for name, script in scripts.items():
        arguments = script.get("args") if isinstance(script, Mapping) else None
        if name.casefold() == "controlnet":
            found = units.followed(arguments or (), service)
        elif any(one not in OFF for one in _each(arguments)):
            raise UsageError(f"there is no script '{short(name)}' here", "leave it out of alwayson_scripts")
        else:
            idle.append(f"the script {short(name)} has no effect")
    return units.Followed(found.values, (*found.warnings, *idle))
