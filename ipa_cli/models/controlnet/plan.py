"""Which ControlNets go beside a model's UNet: found, and told by small files and headers whether they fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_cli.config import ControlConfig
from ipa_cli.config.places import is_repo_id
from ipa_cli.config.privacy import public_name
from ipa_cli.errors import UsageError, suggest
from ipa_cli.models import configurations, missing, named_file, weights
from ipa_cli.models.architectures.base import Architecture
from ipa_cli.models.controlnet import file
from ipa_cli.models.location import (
    Location,
    ModelError,
    config_beside,
    expanded,
    folder_location,
    inside,
    is_file,
    is_folder,
    read_json,
    repository,
)
from ipa_cli.models.single_file import path_of
from ipa_cli.result import NullReporter

OWN = "demo"  # the one that comes with the demo model
KIND = named_file.Kind("ControlNet", "--control", ())
FAMILIES = {768: "SD 1.5", 1024: "SD 2", 2048: "SDXL"}  # by the width of the states that cross attention reads
# The kinds of maps of xinsir's union models by their numbers; the last two are of its ProMax alone.
MODES: Sequence[Sequence[str]] = (
    ("openpose", "pose"),
    ("depth",),
    ("hed", "softedge", "scribble", "pidi", "ted"),
    ("canny", "lineart", "anime_lineart", "mlsd"),
    ("normal",),
    ("segment", "seg"),
    ("tile",),
    ("repaint", "inpaint"),
)


@dataclass(frozen=True)
class ControlPlan:
    """A ControlNet: the folder of a location, or one file, and its configuration; `place` is how it was asked for."""

    place: str
    location: Location
    folder: str
    config: Mapping[str, Any]
    path: Path | None = None

    def __str__(self) -> str:
        return public_name(self.place)

    @property
    def union(self) -> bool:
        """Whether it takes several kinds of maps, one of which must be named."""
        return "num_control_type" in self.config

    @property
    def modes(self) -> list[str]:
        """The usual name of each kind of map that it takes."""
        kinds = range(self.config.get("num_control_type", 0))
        return [MODES[number][0] if number < len(MODES) else str(number) for number in kinds]

    def kind(self, mode: str | None) -> int | None:
        """The number of a kind of map. Raises UsageError for a union model without one, and for any other with one."""
        if not self.union:
            if mode is None:
                return None
            raise UsageError(f"{self} takes one kind of maps: mode={mode} has no effect", "leave out mode")
        known = f"known: {', '.join(self.modes)}"
        if mode is None:
            raise UsageError(f"{self} takes several kinds of maps, and the map's is not said", f"add mode=; {known}")
        for number in range(len(self.modes)):
            if mode.lower() in (str(number), *(MODES[number] if number < len(MODES) else ())):
                return number
        raise UsageError(f"{self} has no mode '{mode}'{suggest(mode, self.modes)}", known)


def make(
    configs: Sequence[ControlConfig], unet_config: Mapping[str, Any], architecture: Architecture, dummy: bool
) -> tuple[ControlPlan, ...]:
    """Each ControlNet that is asked for, once. Raises ModelError for one that is not there or does not fit the UNet."""
    found = {}
    for config in configs:
        if config.place not in found:
            one = _dummy(config, unet_config, architecture) if dummy else _find(config, unet_config)
            check_fits(one, unet_config, architecture)
            found[config.place] = one
    return tuple(found.values())


def _dummy(config: ControlConfig, unet_config: Mapping[str, Any], architecture: Architecture) -> ControlPlan:
    """One of the UNet's own shape, whatever it is called."""
    fields = {key: value for key, value in unet_config.items() if key in configurations.CONTROLNET}
    return ControlPlan(config.place, Location(None), "", {**fields, "in_channels": architecture.latent_channels})


def _find(config: ControlConfig, unet_config: Mapping[str, Any]) -> ControlPlan:
    place, source, name = config.place, config.source, config.file
    if source == OWN:
        if name is not None:
            raise UsageError(f"the ControlNet '{OWN}' is one: it has no '{name}'", f"say --control {OWN},image=MAP.png")
        return _of_folder(place, folder_location(Path(__file__).parents[2] / "demo" / "controlnet"), "")
    if name is None and (path := _file(source)) is not None:
        return _of_file(place, path, unet_config)
    if is_folder(expanded(source)):
        location = folder_location(expanded(source))
    elif is_repo_id(source):
        location = repository(source, None)
    else:
        missing.check(place, "--control")
        raise ModelError(f"there is no ControlNet '{source}'", named_file.EXAMPLE)
    folder = name or ""
    if location.has(inside(folder, "config.json")):
        return _of_folder(place, location, folder)
    if name is None and location.has("controlnet/config.json"):
        return _of_folder(place, location, "controlnet")
    path = named_file.find(KIND, source, name, NullReporter())
    return _of_file(place, _file(str(path)) or path, unet_config)


def _file(text: str) -> Path | None:
    """The file that a text names, None for anything else. Raises ModelError for one of another format."""
    path = expanded(text)
    return path if weights.is_pickle(path) and is_file(path) else path_of(text, "--control")


def _of_folder(place: str, location: Location, folder: str) -> ControlPlan:
    name = inside(folder, "config.json")
    return ControlPlan(
        place, location, folder, configurations.controlnet(f"{location}/{name}", read_json(location, name))
    )


def _of_file(place: str, path: Path, unet_config: Mapping[str, Any]) -> ControlPlan:
    config = file.configuration(path, unet_config)
    if (said := config_beside(path, "ControlNet")) is not None:
        config = configurations.controlnet(str(path.with_name("config.json")), said)
    return ControlPlan(place, folder_location(path.parent), path.name, config, path.absolute())


def check_fits(control: ControlPlan, unet_config: Mapping[str, Any], architecture: Architecture) -> None:
    """Raise ModelError unless the residuals have the shapes of the UNet's own states, made of the same conditions."""
    own = control.config
    width = own["cross_attention_dim"]
    if width != unet_config["cross_attention_dim"] or own.get("addition_embed_type") != unet_config.get(
        "addition_embed_type"
    ):
        family = FAMILIES.get(width, f"a model with text states of {width}")
        raise ModelError(
            f"the ControlNet {control} is made for {family}, the model is {architecture.name}",
            f"choose a ControlNet for {architecture.name}",
        )
    pairs = {
        "in_channels": architecture.latent_channels,
        "block_out_channels": unet_config["block_out_channels"],
        "layers_per_block": unet_config.get("layers_per_block", 2),
        "projection_class_embeddings_input_dim": unet_config.get("projection_class_embeddings_input_dim"),
    }
    usual = {"in_channels": 4, "layers_per_block": 2}
    for key, wanted in pairs.items():
        value = own.get(key, usual.get(key))
        if value != wanted:
            raise ModelError(
                f"the ControlNet {control} does not fit the UNet: {key} is "
                f"{configurations.shown(value)}, not {configurations.shown(wanted)}",
                f"choose a ControlNet for {architecture.name}",
            )
    levels = len(own.get("conditioning_embedding_out_channels", (16, 32, 96, 256))) - 1
    if 2**levels != architecture.latent_factor:
        raise ModelError(
            f"the ControlNet {control} reads maps at {2**levels} pixels for each latent pixel, "
            f"not {architecture.latent_factor}",
            f"choose a ControlNet for {architecture.name}",
        )
