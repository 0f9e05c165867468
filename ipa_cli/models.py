"""Where weights come from: the shipped miniature, a hub repository, a folder, one file, or seeded random numbers.

`plan` reads only small files and finds out whether the parts fit; `loading.load` then fetches and builds them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import families, hub, single_file, vaes
from .adapters import AdapterPlan, plan_adapter
from .config import Settings, adapter_options, suggest
from .errors import UsageError
from .families import Family
from .locations import Location, ModelError, expanded, folder_location, is_folder, read_json, repository
from .single_file import Checkpoint, Part

HERE = Path(__file__).parent
DEMO = HERE / "demo"
PRESETS = {family.preset: family for family in families.FAMILIES}
OF_THE_ARCHITECTURE = ("guidance_scale", "width", "height")
DEFAULTS = {"steps": 30, "scale": 0.6, "negative_prompt": ""}


@dataclass(frozen=True)
class Plan:
    """What to load, and what the model would like where the user said nothing."""

    name: str
    family: Family
    location: Location
    dummy: bool
    unet_config: Mapping[str, Any]
    adapters: tuple[AdapterPlan, ...]
    defaults: Mapping[str, Any]
    variant: str | None
    checkpoint: Checkpoint | None = None  # the one file that the model is in
    vae: Part | None = None  # the one to be used in place of the model's own

    def part(self, name: str) -> Part:
        """Where the UNet, the VAE or a text encoder comes from; the model must be here by now."""
        if name == "vae" and self.vae is not None:
            return self.vae
        return Part(self.location, name, read_json(self.location, f"{name}/config.json"), self.checkpoint)

    @property
    def adapter(self) -> AdapterPlan | None:
        """The first adapter, None without any."""
        return self.adapters[0] if self.adapters else None


def plan(settings: Settings) -> Plan:
    """Find the model and its adapter, and check that they fit, before anything large is fetched or loaded."""
    dummy = settings.load_format == "dummy"
    file = single_file.path_of(settings.model)
    single, checkpoint = single_file.read_checkpoint(file) if file else (None, None)
    preset = single or (PRESETS.get(settings.model) if dummy else None)
    location = single_file.configurations(preset) if preset else _locate(settings)
    unet_config = read_json(location, "unet/config.json")
    family = families.of_unet(unet_config)
    if family is None:
        raise ModelError(
            f"{settings.model} is not an SDXL model, nor SD 1.5: its UNet takes other inputs",
            "use --model sdxl or sd15, or a model derived from one of them (not for inpainting)",
        )
    defaults = _defaults(settings, location, unet_config, family)
    found = tuple(
        replace(plan_adapter(one, location, unet_config, family, dummy), encodes=one.embeds is None)
        for one in adapter_options.each(settings)
        if settings.adapter or (one.ip_adapter != "none" and (one.image or one.embeds or defaults.get("reference")))
    )
    vae = _vae(settings, location, family, checkpoint)
    return Plan(
        settings.model, family, location, dummy, unet_config, found, defaults, settings.variant, checkpoint, vae
    )


def own_defaults(settings: Settings) -> dict[str, Any]:
    """What the model would like where the user says nothing, told without the network or its weights.

    Those `OF_THE_ARCHITECTURE` are missing for a repository of the hub that is not here yet. Raises IpaError when
    there is no such model.
    """
    file = single_file.path_of(settings.model)
    preset = single_file.read_checkpoint(file)[0] if file else PRESETS.get(settings.model)
    if preset is not None:
        location = single_file.configurations(preset)
    elif hub.is_repo_id(settings.model) and not is_folder(expanded(settings.model)):
        config = hub.cached(settings.model, "unet/config.json", settings.revision)
        if config is None:
            return dict(DEFAULTS)
        location = folder_location(config.parents[1])
    else:
        location = _locate(settings)
    unet_config = read_json(location, "unet/config.json")
    family = families.of_unet(unet_config)
    return _defaults(settings, location, unet_config, family) if family else dict(DEFAULTS)


# --- finding -------------------------------------------------------------------------------------------------------


def _locate(settings: Settings) -> Location:
    if settings.model == "demo":
        return folder_location(DEMO)
    if settings.model in PRESETS:
        return repository(PRESETS[settings.model].repo, settings.revision)
    path = expanded(settings.model)
    if settings.model and is_folder(path):
        return _of_diffusers(folder_location(path))
    if path.is_absolute() or settings.model.startswith((".", "~")):
        raise ModelError(f"there is no folder or file {path}", "check the path given with --model")
    if not hub.is_repo_id(settings.model):
        raise UsageError(
            f"unknown model '{settings.model}'{suggest(settings.model, ['demo', *PRESETS])}",
            "give demo, sdxl, sd15, a hub id (owner/name), a diffusers folder or a .safetensors file",
        )
    return _of_diffusers(repository(settings.model, settings.revision))


def _of_diffusers(location: Location) -> Location:
    """The same location. Raises ModelError for another layout than diffusers'; one-file models in it are named."""
    if location.has("model_index.json"):
        return location
    files = [name for name in location.files() if name.endswith(single_file.SUFFIXES)]
    hint = "name the folder above unet/"
    if files and location.folder is not None:
        hint = f"name a file in it: --model {shlex.quote(str(location.folder / files[0]))}"
    elif files:
        hint = f'name a file in it: --model "$(hf download {location.repo} {shlex.quote(files[0])})"'
    raise ModelError(f"{location} is no diffusers folder: it has no model_index.json", hint)


def _vae(settings: Settings, location: Location, family: Family, checkpoint: Checkpoint | None) -> Part | None:
    if settings.vae is None:
        if checkpoint is not None and "vae" not in checkpoint.parts:
            raise ModelError(f"{checkpoint.path} comes without a VAE", f"name one, for example --vae {family.vae}")
        return None
    if settings.load_format == "dummy":
        raise UsageError("--load-format dummy builds its own VAE", "leave --vae out")
    has_own = location.has("vae/config.json")
    return vaes.named(
        settings.vae, read_json(location if has_own else single_file.configurations(family), "vae/config.json")
    )


def _defaults(settings: Settings, location: Location, unet_config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    side = 8 * int(unet_config.get("sample_size") or 128)
    found = {**DEFAULTS, "guidance_scale": family.guidance_scale, "width": side, "height": side}
    miniature = read_json(folder_location(DEMO), "defaults.json")
    miniature["reference"] = str(DEMO / miniature["reference"])
    if location.folder == DEMO.absolute():
        found |= miniature
    elif settings.load_format == "dummy":
        # Random weights draw noise whatever they are asked: the miniature's inputs serve.
        found |= {key: miniature[key] for key in ("prompt", "reference")}
    return found
