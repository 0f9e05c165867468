"""Settings by keyword: the names of the flags with `_` for `-`, checked as flags are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

from ipa_cli.config import FIELDS, AdapterConfig, ControlConfig, Settings, adapter_options, checked, controls, regions
from ipa_cli.config.adapters import KEYS, LOCATION, SETTINGS
from ipa_cli.config.names import by_setting, meant
from ipa_cli.config.presets import with_preset_values
from ipa_cli.config.regions import RegionConfig
from ipa_cli.config.requests import ONE_PICTURE
from ipa_cli.config.values import flag_of, from_python
from ipa_cli.errors import UsageError, suggest
from ipa_cli.images import reference
from ipa_cli.images.reference import Reference

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    Source = str | Path | Image


class RequestSettings(TypedDict, total=False):
    """The settings of a request, but for its prompt and the number of pictures, as `Engine.draw` takes them."""

    image: Source | Sequence[Source] | None
    region: Sequence[str | Mapping[str, Any]] | None
    init_image: Source | None
    strength: float | None
    inpaint_mask: Source | None
    mask_blur: float | None
    pad: str | None
    scale: float | None
    negative_prompt: str | None
    prompt_syntax: str | None
    width: int | None
    height: int | None
    steps: int | None
    guidance_scale: float | None
    guidance_start: float | None
    guidance_end: float | None
    guidance_rescale: float | None
    step_cache: str | None
    scheduler: str | None
    sampler: str | None
    schedule: str | None
    eta: float | None
    preset: str | None
    hires: float | str | None
    hires_strength: float | None
    hires_steps: int | None
    hires_upscaler: str | None
    seed: int | None
    batch_size: int | None
    image_weight: float | Sequence[float] | None
    image_combine: str | None
    image_per_picture: bool | None
    face: int | None
    face_shortcut: float | None
    ip_lora: float | None
    negative_image: Source | None
    embeds: str | Path | None
    fit: str | None
    sharpening: float | None
    mask: Source | Sequence[Source] | None
    ip_mode: str | None
    ip_layers: str | Mapping[str, Any] | None
    ip_start: float | None
    ip_end: float | None
    adapter: Sequence[Mapping[str, Any]] | None
    lora: str | Path | Sequence[str | Path] | None
    control: Sequence[Mapping[str, Any]] | None


NOT_HERE = ("output", "preview", "server", "server_token_file")  # of the command line alone
MASKS = ("mask", "inpaint_mask")  # pictures in grey
JSON = ("compile_options", "ip_layers")  # given as JSON, or as what it stands for


def keywords(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, each of the type that it has; those that are None are left to the layers below.

    Raises UsageError for a name that is none, and for a value of another type.
    """
    known = [name for name in FIELDS if name not in NOT_HERE]
    given = by_setting(given)
    for name in given:
        if name not in known:
            raise UsageError(
                f"there is no setting '{name}'{suggest(meant(name), known)}", f"known are {', '.join(known)}"
            )
    return {name: _value(name, value) for name, value in given.items() if value is not None}


def _value(name: str, value: Any) -> Any:
    return from_python(name, json.dumps(value) if name in JSON and not isinstance(value, str) else value)


def of_adapters(adapter: str | Sequence[str] | None) -> dict[str, Any]:
    """The settings of the adapters to load: the plain ones for one, so that `image` and the like speak of it."""
    specified = [adapter] if isinstance(adapter, str) else list(adapter or ())
    if len(specified) != 1:
        return {"adapter": tuple(specified)} if specified else {}
    one = adapter_options.parse(specified[0], "adapter")
    stated = [*LOCATION, *(name for name in KEYS if name in one.stated)]
    return {SETTINGS[name]: value for name in stated if (value := getattr(one, name)) is not None}


def of_request(settings: Settings, given: Mapping[str, Any]) -> tuple[Settings, dict[tuple[str, bool], Reference]]:
    """`settings` with those `given` for a request in their place, and the pictures among them that are in memory."""
    in_memory: dict[tuple[str, bool], Reference] = {}
    given = by_setting(given)
    named = _named(given, in_memory)
    plain = {name: value for name, value in named.items() if name not in ("adapter", "control", "region")}
    values = with_preset_values(keywords(plain), settings.preset)
    for name, value in values.items():
        checked(name, value, flag_of(name))
    if given.get("region") is not None:
        values["region"] = checked("region", _regions(given["region"], in_memory), "region")
    if given.get("adapter") is not None:
        values["adapter"] = _adapters(settings.adapter, given["adapter"], in_memory)
    values["control"] = _controls(settings.control, given.get("control"), in_memory)
    for one, other in (("image", "embeds"), ("embeds", "image")):
        if one in values:
            values.setdefault(other, FIELDS[other].default)  # in place of what the engine was opened with
    inherited = frozenset(name for name in FIELDS if given.get(name) is None)
    return replace(settings, **values, inherited=inherited), in_memory


def _regions(
    given: Sequence[str | Mapping[str, Any]], in_memory: dict[tuple[str, bool], Reference]
) -> tuple[RegionConfig, ...]:
    """Regions as `--region` has them, as text or by its keys, where a mask may be a picture."""
    if isinstance(given, str | Mapping) or not all(isinstance(one, str | Mapping) for one in given):
        raise UsageError("region is no list of mappings", regions.EXAMPLE)
    return tuple(
        regions.parse(one, "region")
        if isinstance(one, str)
        else regions.of_values(_named_mask(one, in_memory), "region")
        for one in given
    )


def _named_mask(region: Mapping[str, Any], in_memory: dict[tuple[str, bool], Reference]) -> dict[str, Any]:
    mask = _named({"inpaint_mask": region.get("mask")}, in_memory)["inpaint_mask"]
    return {**region, **({} if mask is None else {"mask": str(mask)})}


def _adapters(
    loaded: Sequence[AdapterConfig], given: Sequence[Mapping[str, Any]], in_memory: dict[tuple[str, bool], Reference]
) -> tuple[AdapterConfig, ...]:
    """The loaded adapters with what is given for each of them, by the keys of `--adapter`."""
    if len(given) != len(loaded):
        raise UsageError(
            f"{len(given)} mappings for {len(loaded)} adapters", "give one for each adapter, in their order"
        )
    found = []
    for one, mapping in zip(loaded, given, strict=True):
        for key in mapping:
            if key not in KEYS or key == "encoder":
                raise UsageError(f"adapter: unknown key '{key}'{suggest(key, KEYS)}", f"known: {', '.join(KEYS)}")
        values = {key: _value(SETTINGS[key], value) for key, value in _named(mapping, in_memory).items()}
        for key, value in values.items():
            checked(SETTINGS[key], value, f"adapter: {key}")
        found.append(replace(one, **values, stated=one.stated | values.keys()))
    return tuple(found)


def _controls(
    loaded: Sequence[ControlConfig],
    given: Sequence[Mapping[str, Any]] | None,
    in_memory: dict[tuple[str, bool], Reference],
) -> tuple[ControlConfig, ...]:
    """What is given for the loaded ControlNets, by the keys of `--control`; else those that have a map already."""
    if given is None:
        return tuple(one for one in loaded if one.image is not None)
    named = [_named({"init_image": one.get("image")}, in_memory)["init_image"] for one in given]
    return controls.of_request(
        loaded, [{**one, "image": str(image) if image else None} for one, image in zip(given, named, strict=True)]
    )


def _named(given: Mapping[str, Any], in_memory: dict[tuple[str, bool], Reference]) -> dict[str, Any]:
    """`given` with names in place of pictures that have none, which join those `in_memory`."""

    def named(name: str, picture: Any) -> Any:
        if not hasattr(picture, "tobytes") or not hasattr(picture, "mode"):
            return picture
        as_mask = name in MASKS
        loaded = reference.of_image(picture, as_mask)
        in_memory[loaded.source, as_mask] = loaded
        return loaded.source

    values = dict(given)
    for name in ("image", "mask"):
        value = values.get(name)
        if value is not None:
            several = value if isinstance(value, list | tuple) else [value]
            values[name] = [named(name, one) for one in several]
    for name in ONE_PICTURE:
        if values.get(name) is not None:
            values[name] = named(name, values[name])
    return values
