"""Units of A1111's ControlNet extension: references of loaded IP-Adapters, and maps of loaded ControlNets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from ipa_cli.config.checks import short
from ipa_cli.config.controls import PREPROCESSORS
from ipa_cli.errors import UsageError
from ipa_cli.serve.body import validated
from ipa_cli.serve.service import Service

# Each names an image encoder; here it is always the one that fits the adapter.
MODULES = (
    "ip-adapter-auto",
    "ip-adapter_clip_g",
    "ip-adapter_clip_h",
    "ip-adapter_clip_sd15",
    "ip-adapter_clip_sdxl",
    "ip-adapter_clip_sdxl_plus_vith",
)
FITS = {
    **{0: "stretch", "just resize": "stretch"},
    **{1: "crop", "crop and resize": "crop", "scale to fit (inner fit)": "crop", "inner fit (scale to fit)": "crop"},
    **{2: "pad", "resize and fill": "pad", "envelope (outer fit)": "pad", "outer fit (shrink to fit)": "pad"},
}
REFUSED = ("advanced_weighting", "ipadapter_input", "mask", "mask_image")
IDLE = (
    *("low_vram", "lowvram", "processor_res", "threshold_a", "threshold_b", "pixel_perfect", "hr_option", "is_ui"),
    *("input_mode", "batch_images", "output_dir", "loopback", "save_detected_map", "inpaint_crop_input_image"),
    *("pulid_mode", "use_preview_as_input", "generated_image", "union_control_type", "guessmode"),
)


class Unit(BaseModel):
    """A unit, by its names of today and those of before."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    enabled: bool = True
    module: str = "none"
    model: str | None = None
    weight: float = 1.0
    image: Any = Field(None, validation_alias=AliasChoices("image", "input_image"))
    guidance_start: float = 0.0
    guidance_end: float = Field(1.0, validation_alias=AliasChoices("guidance_end", "guidance"))
    resize_mode: int | str | None = None
    control_mode: int | str | None = None
    effective_region_mask: str | None = None


@dataclass(frozen=True)
class Followed:
    """The settings that units stand for, and what of them has no effect."""

    values: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def followed(arguments: Any, service: Service) -> Followed:
    """What the units of a body ask for. Raises UsageError for units of other models than those that are loaded."""
    if not isinstance(arguments, Sequence) or isinstance(arguments, str):
        raise UsageError("the units of controlnet are no list", "alwayson_scripts.controlnet.args is one")
    given = [(number, validated(Unit, one, f"unit {number}")) for number, one in enumerate(arguments)]
    enabled = [(number, unit) for number, unit in given if unit.enabled]
    if not enabled:
        return Followed()
    maps, others = _of_controls(enabled, service)
    warnings = _unknown([unit for _, unit in enabled])
    if not others:
        return Followed(maps, warnings)
    names = adapters(service)
    several = len(service.settings.adapter)
    unused = list(range(len(names)))
    mappings: dict[int, dict[str, Any]] = {}
    for number, unit in others:
        _check(number, unit)
        place = _place(number, unit, names, unused)
        unused.remove(place)
        mappings[place] = _mapping(number, unit)
    if several:
        idle = {"image": next(iter(mappings.values()))["image"], "scale": 0.0}
        return Followed({**maps, "adapter": [mappings.get(place, idle) for place in range(several)]}, warnings)
    return Followed({**maps, **{PLAIN.get(key, key): value for key, value in mappings[0].items()}}, warnings)


def _unknown(units: Sequence[Unit]) -> tuple[str, ...]:
    """A warning about fields that nobody knows."""
    unknown = [name for unit in units for name in unit.model_extra or {} if name not in (*IDLE, *REFUSED)]
    return (f"unknown fields of units have no effect: {short(', '.join(unknown))}",) if unknown else ()


def controls(service: Service) -> list[str]:
    """The loaded ControlNets as models of the extension are named."""
    each = {one.place: one for one in service.settings.control}
    return [PurePosixPath(one.name).name for one in each.values()]


def _of_controls(units: Sequence[tuple[int, Unit]], service: Service) -> tuple[dict[str, Any], list[tuple[int, Unit]]]:
    """The settings of the units whose model is a loaded ControlNet, and the other units."""
    names, others = [name.casefold() for name in controls(service)], []
    maps: list[dict[str, Any]] = []
    for number, unit in units:
        if _stem(unit.model or "") not in names:
            others.append((number, unit))
            continue
        _check(number, unit, (*PREPROCESSORS, "none"))
        image, *more = _images(number, unit.image)
        if more:
            raise UsageError(f"unit {number}: a ControlNet follows one map", "send a unit for each")
        kind = str((unit.model_extra or {}).get("union_control_type") or "").casefold()
        maps.append(
            {
                "model": names.index(_stem(unit.model or "")),
                "image": image,
                "scale": unit.weight,
                "start": unit.guidance_start,
                "end": unit.guidance_end,
                "preprocess": None if unit.module.casefold() == "none" else unit.module.casefold(),
                "mode": None if kind in ("", "none", "all", "unknown") else kind,
            }
        )
    return ({"control": maps} if maps else {}), others


PLAIN = {"start": "ip_start", "end": "ip_end"}  # keys of an adapter that are settings by other names


def adapters(service: Service) -> list[str]:
    """The loaded adapters as models of ControlNet are named: a file without its ending."""
    return [PurePosixPath(one.file).stem or "ip-adapter" for one in service.plan.adapters]


def _check(number: int, unit: Unit, modules: Sequence[str] = MODULES) -> None:
    extra = unit.model_extra or {}
    if unit.module.lower() not in modules:
        raise UsageError(
            f"unit {number}: the module '{short(unit.module)}' is not offered here", f"offered are {', '.join(modules)}"
        )
    for name in REFUSED:
        if extra.get(name) not in (None, "", [], {}):
            raise UsageError(f"unit {number}: {name} is not offered here", "leave it out")
    if unit.control_mode not in (None, 0, "Balanced"):
        raise UsageError(
            f"unit {number}: the control mode '{short(unit.control_mode)}' is not offered here", "Balanced is"
        )


def _place(number: int, unit: Unit, names: Sequence[str], unused: Sequence[int]) -> int:
    """Which adapter a unit means: by its name, else the next one."""
    named = _stem(unit.model or "")
    of_that_name = [place for place in unused if named in ("", "none", "auto") or named == names[place].casefold()]
    if of_that_name:
        return of_that_name[0]
    if not names:
        raise UsageError("no adapter is loaded that could follow a reference", "start the server with --ip-adapter")
    if not unused or named in (name.casefold() for name in names):
        raise UsageError(f"unit {number}: every adapter has a unit already", "image takes a list of several references")
    raise UsageError(f"unit {number}: there is no adapter '{short(unit.model)}'", f"loaded: {', '.join(names)}")


def _stem(model: str) -> str:
    return re.sub(r"(\.(safetensors|bin|pth|pt))?( \[\w+\])?$", "", model.strip()).casefold()


def _mapping(number: int, unit: Unit) -> dict[str, Any]:
    mode = unit.resize_mode.casefold() if isinstance(unit.resize_mode, str) else unit.resize_mode
    if mode is not None and mode not in FITS:
        raise UsageError(f"unit {number}: there is no resize mode '{short(mode)}'", "Resize and Fill is one")
    mapping = {
        "image": _images(number, unit.image),
        "scale": unit.weight,
        "start": unit.guidance_start,
        "end": unit.guidance_end,
    }
    if mode is not None:
        mapping["fit"] = FITS[mode]
    if unit.effective_region_mask:
        mapping["mask"] = [unit.effective_region_mask]
    return mapping


def _images(number: int, given: Any) -> list[Any]:
    """The references of a unit: base64, {"image": base64} or a list of these, as the extension takes them."""
    listed = [one for one in (given if isinstance(given, list) else [given]) if one]
    if len(listed) > 1 and not all(isinstance(one, Mapping) for one in listed):
        raise UsageError(f"unit {number}: an image and its mask are not offered here", 'send [{"image": …}, …]')
    for one in listed:
        if isinstance(one, Mapping) and one.get("mask"):
            raise UsageError(f"unit {number}: a mask of the reference is not offered here", "leave it out")
    found = [one.get("image") if isinstance(one, Mapping) else one for one in listed]
    if not found:
        raise UsageError(f"unit {number} has no image", "send it in base64")
    return found
