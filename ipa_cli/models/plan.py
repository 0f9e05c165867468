"""Where weights come from: the shipped miniature, a hub repository, a folder, one file, or seeded random numbers.

`plan` reads only small files and finds out whether the parts fit; `loader.load` then fetches and builds them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ipa_cli.config import AdapterConfig, Settings
from ipa_cli.config.places import is_repo_id
from ipa_cli.config.values import flag_of
from ipa_cli.errors import UsageError, suggest
from ipa_cli.models import architectures, configurations, hub, kinds, missing, single_file, weights
from ipa_cli.models.architectures.base import Architecture
from ipa_cli.models.controlnet import plan as controlnet
from ipa_cli.models.controlnet.plan import ControlPlan
from ipa_cli.models.ip_adapter.plan import AdapterPlan, plan_adapter
from ipa_cli.models.location import (
    Location,
    ModelError,
    expanded,
    folder_location,
    is_file,
    is_folder,
    read_json,
    repository,
)
from ipa_cli.models.single_file import Checkpoint, Part
from ipa_cli.models.vae import override

HERE = Path(__file__).parents[1]
DEMO = HERE / "demo"
DEMO_REFERENCE = "ipa_cli/demo/reference.png"  # what its reference is called, wherever it is installed
VAE = "vae/config.json"
OF_THE_ARCHITECTURE = ("guidance_scale", "width", "height")
DEFAULTS = {"steps": 30, "scale": 0.6, "negative_prompt": ""}


@dataclass(frozen=True)
class Plan:
    """What to load, and what the model would like where the user said nothing."""

    name: str
    architecture: Architecture
    location: Location
    dummy: bool
    configs: Mapping[str, Mapping[str, Any]]  # of UNet, VAE, text encoders, scheduler, as `configurations` takes them
    adapters: tuple[AdapterPlan, ...]
    defaults: Mapping[str, Any]
    variant: str | None
    zeros_for_empty_prompt: bool
    checkpoint: Checkpoint | None = None  # the one file that the model is in
    vae: Part | None = None  # the one to be used in place of the model's own
    controls: tuple[ControlPlan, ...] = ()  # the ControlNets, each once
    unused: tuple[str, ...] = ()  # settings that choose among files which this model does not have, as warnings

    def part(self, name: str) -> Part:
        """Where the UNet, the VAE or a text encoder comes from."""
        if name == "vae" and self.vae is not None:
            return self.vae
        return Part(self.location, name, self.configs[name], self.checkpoint)

    @property
    def unet_config(self) -> Mapping[str, Any]:
        """The fields of the UNet's configuration."""
        return self.configs["unet"]

    @property
    def adapter(self) -> AdapterPlan | None:
        """The first adapter, None without any."""
        return self.adapters[0] if self.adapters else None


def make_plan(settings: Settings, references_later: bool = False) -> Plan:
    """Find the model and its adapter, and check that they fit, before anything large is fetched or loaded.

    Without a reference picture there is no adapter either, unless `references_later` come with each request.
    """
    dummy = settings.load_format == "dummy"
    file = single_file.path_of(settings.model)
    single, checkpoint = single_file.read_checkpoint(file) if file else (None, None)
    preset = single or (architectures.of_preset(settings.model) if dummy else None)
    location = single_file.configurations(preset) if preset else _locate(settings)
    if not location.has("unet/config.json"):
        raise _no_unet(location)
    architecture = architectures.of_unet(read_json(location, "unet/config.json"))
    if architecture is None:
        raise ModelError(
            f"{settings.model} is not a model of {architectures.names()}: its UNet takes other inputs",
            f"use --model {' or '.join(architectures.presets())}, or a model derived from one",
        )
    index = read_json(location, "model_index.json")
    if index.get("requires_aesthetics_score") is True:
        raise ModelError(f"{settings.model} is {kinds.REFINER.words}", kinds.BASE)
    configs = _configurations(location, architecture, settings.vae is None)
    if checkpoint is not None:
        configs["unet"] |= checkpoint.unet
    unet_config = configs["unet"]
    defaults = _defaults(settings, location, unet_config, architecture)
    found = tuple(
        replace(plan_adapter(one, location, unet_config, architecture, dummy), embedded=one.embeds is not None)
        for one in settings.adapters
        if settings.adapter or (one.source != "none" and (references_later or has_reference(one, defaults)))
    )
    vae = _vae(settings, configs["vae"], architecture, checkpoint)
    zeros = architecture.zeros_for_empty_prompt(index)
    return Plan(
        name=settings.model,
        architecture=architecture,
        location=location,
        dummy=dummy,
        configs=configs,
        adapters=found,
        defaults=defaults,
        variant=settings.variant,
        zeros_for_empty_prompt=zeros,
        checkpoint=checkpoint,
        vae=vae,
        controls=controlnet.make(settings.control, unet_config, architecture, dummy),
        unused=_unused(settings, location, checkpoint),
    )


def has_reference(adapter: AdapterConfig, defaults: Mapping[str, Any]) -> bool:
    """Whether there is a reference picture: one that is named, or the model's own."""
    own = None if adapter.follows_none else defaults.get("reference")
    return bool(adapter.image or adapter.embeds or own)


def own_defaults(settings: Settings) -> dict[str, Any]:
    """What the model would like where the user says nothing, told without the network or its weights.

    Those `OF_THE_ARCHITECTURE` are missing for a repository of the hub that is not here yet. Raises IpaError when
    there is no such model.
    """
    file = single_file.path_of(settings.model)
    preset = single_file.read_checkpoint(file)[0] if file else architectures.of_preset(settings.model)
    if preset is not None:
        location = single_file.configurations(preset)
    elif is_repo_id(settings.model) and not is_folder(expanded(settings.model)):
        here = hub.cached(settings.model, "unet/config.json", settings.revision)
        if here is None:
            return dict(DEFAULTS)
        location = folder_location(here.parents[1])
    else:
        location = _locate(settings)
    config = read_json(location, "unet/config.json")
    architecture = architectures.of_unet(config)
    if architecture is None:
        return dict(DEFAULTS)
    return _defaults(settings, location, configurations.unet(f"{location}/unet/config.json", config), architecture)


# --- finding -------------------------------------------------------------------------------------------------------


def _locate(settings: Settings) -> Location:
    if settings.model == "demo":
        return folder_location(DEMO)
    if (preset := architectures.of_preset(settings.model)) is not None:
        return repository(preset.repo, settings.revision)
    path = expanded(settings.model)
    if settings.model and is_folder(path):
        return _of_diffusers(folder_location(path))
    missing.check(settings.model, "--model")
    if path.is_absolute() or settings.model.startswith((".", "~")):
        raise ModelError(f"there is no folder or file {path}", "check the path given with --model")
    if not is_repo_id(settings.model):
        known = ["demo", *architectures.presets()]
        raise UsageError(
            f"unknown model '{settings.model}'{suggest(settings.model, known)}",
            f"give {', '.join(known)}, a hub id (owner/name), a diffusers folder or a .safetensors file",
        )
    return _of_diffusers(repository(settings.model, settings.revision))


def _of_diffusers(location: Location) -> Location:
    """The same location. Raises ModelError for another layout than diffusers'; one-file models in it are named."""
    if location.has("model_index.json"):
        return location
    whole = location.has("unet/config.json")  # but for that
    hint = "download that too" if whole else missing.of_folder(location) or "name the folder above unet/"
    files = [name for name in location.files() if weights.is_safetensors(name)]
    if files and location.repo is not None:
        hint = f'name a file in it: --model "$(hf download {location.repo} {shlex.quote(files[0])})"'
    raise ModelError(f"{location} is no diffusers folder: it has no model_index.json", hint)


def _unused(settings: Settings, location: Location, checkpoint: Checkpoint | None) -> tuple[str, ...]:
    """Warnings about a variant or revision that the model does not have."""
    found = []
    if settings.given("variant") and checkpoint is not None:
        found.append(f"variant {settings.variant} is not used: {settings.model} is one file")
    if settings.given("revision") and location.repo is None:
        found.append(f"revision {settings.revision} is not used: {settings.model} does not come from the hub")
    if settings.ip_adapter is not None and is_file(expanded(settings.ip_adapter)):
        found += [
            f"{flag_of(name)} {getattr(settings, name)} is not used: {settings.ip_adapter} is one file"
            for name in settings.given("ip_adapter_subfolder", "ip_adapter_weight_name")
        ]
    return tuple(found)


def _vae(
    settings: Settings, own: Mapping[str, Any], architecture: Architecture, checkpoint: Checkpoint | None
) -> Part | None:
    if settings.vae is None:
        if checkpoint is not None and "vae" not in checkpoint.parts:
            raise ModelError(
                f"{checkpoint.path} comes without a VAE", f"name one, for example --vae {architecture.vae}"
            )
        return None
    if settings.load_format == "dummy":
        raise UsageError("--load-format dummy builds its own VAE", "leave --vae out")
    return override.named(settings.vae, own)


def _no_unet(location: Location) -> ModelError:
    kind = read_json(location, "model_index.json").get("_class_name")
    if isinstance(kind, str) and not kind.startswith("StableDiffusion"):
        return ModelError(
            f"{location} is a {configurations.shown(kind)}, not a model of {architectures.names()}",
            f"use --model {' or '.join(architectures.presets())}",
        )
    if any("\\" in name for name in location.files()):
        return ModelError(f"{location} has backslashes in names: a zip made on Windows", "unpack it again, with 7z x")
    return ModelError(f"{location} has no unet/config.json", "name a whole diffusers folder with --model")


def _configurations(location: Location, architecture: Architecture, own_vae: bool) -> dict[str, dict[str, Any]]:
    """What is taken of the configuration of each part. Raises ModelError unless the parts fit each other.

    A model that is drawn with another VAE may be without; it would have that of its architecture.
    """

    def take(check: Callable[[str, Mapping[str, Any]], dict[str, Any]], file: str) -> dict[str, Any]:
        place = location if own_vae or file != VAE or location.has(VAE) else single_file.configurations(architecture)
        return check(f"{place}/{file}", read_json(place, file))

    found = {
        "unet": take(configurations.unet, "unet/config.json"),
        "vae": take(configurations.vae, VAE),
        "scheduler": take(configurations.scheduler, "scheduler/scheduler_config.json"),
        **{part: take(configurations.text_encoder, f"{part}/config.json") for part in architecture.text_encoders},
    }
    texts = [found[part] for part in architecture.text_encoders]
    configurations.check_together(str(location), architecture, found["unet"], found["vae"], texts)
    return found


def _defaults(
    settings: Settings, location: Location, unet_config: Mapping[str, Any], architecture: Architecture
) -> dict[str, Any]:
    latents = unet_config.get("sample_size")
    side = architecture.latent_factor * int(latents) if latents else architecture.native_size
    found = {**DEFAULTS, "guidance_scale": architecture.guidance_scale, "width": side, "height": side}
    miniature = read_json(folder_location(DEMO), "defaults.json")
    miniature["reference"] = str(DEMO / miniature["reference"])
    if location.folder == DEMO.absolute():
        found |= miniature
    elif settings.load_format == "dummy":
        # Random weights draw noise whatever they are asked: the miniature's inputs serve.
        found |= {key: miniature[key] for key in ("prompt", "reference")}
    return found
