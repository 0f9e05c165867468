"""The VAE that a model draws with in place of its own: `--vae`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipa_cli.config.places import is_repo_id
from ipa_cli.models import configurations, missing, single_file
from ipa_cli.models.location import (
    ModelError,
    config_beside,
    expanded,
    folder_location,
    inside,
    is_folder,
    read_json,
    repository,
)
from ipa_cli.models.single_file import Checkpoint, Part

SCALING_FACTOR = 0.18215  # what a configuration means that does not say it
LATENT_CHANNELS = 4
OTHER = "name one that was made for this model with --vae"


def named(text: str, own: Mapping[str, Any]) -> Part:
    """The VAE that `--vae` names: a file, a folder, or a hub id; of a whole model its VAE.

    A file has the configuration beside it in a folder of diffusers, else that of the model's `own` VAE. Raises
    ModelError unless it is made for the same latents.
    """
    file = single_file.path_of(text, "--vae")
    if file is not None:
        said = config_beside(file, "AutoencoderKL")
        config = own if said is None else _fitting(str(file), said, own)
        return Part(folder_location(file.parent), "", config, _read(file, own))
    path = expanded(text)
    if is_folder(path):
        location = folder_location(path)
    elif is_repo_id(text):
        location = repository(text, None)
    else:
        missing.check(text, "--vae")
        raise ModelError(f"there is no VAE '{text}'", "give a .safetensors file, a folder, or a hub id (owner/name)")
    folder = next((folder for folder in ("vae", "") if location.has(inside(folder, "config.json"))), None)
    if folder is None:
        raise ModelError(f"{location} is no VAE: it has no config.json", "name its .safetensors file with --vae")
    config = read_json(location, inside(folder, "config.json"))
    return Part(location, folder, _fitting(f"{location}/{folder}".rstrip("/"), config, own))


def _fitting(name: str, config: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a VAE's configuration. Raises ModelError unless it is made for the same latents as the model's."""
    _check(name, config, own)
    found = configurations.vae(name, config)
    theirs, ours = configurations.latent_factor(found), configurations.latent_factor(own)
    if theirs != ours:
        raise ModelError(f"{name} is a VAE for other models: {theirs} pixels for a latent one, not {ours}", OTHER)
    return found


def _read(file: Path, own: Mapping[str, Any]) -> Checkpoint:
    checkpoint, channels = single_file.read_vae(file)
    _check(str(file), {**own, "latent_channels": channels}, own)
    return checkpoint


def _check(name: str, config: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise ModelError for a VAE of another class, or of another space of latents than the model's own."""
    kind = config.get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        raise ModelError(f"{name} is of the class {str(kind)[:80]}", "name an AutoencoderKL with --vae")
    for key, usual in (("latent_channels", LATENT_CHANNELS), ("scaling_factor", SCALING_FACTOR)):
        theirs, ours = config.get(key, usual), own.get(key, usual)
        if theirs != ours:
            raise ModelError(
                f"{name} is a VAE for other models: its {key} is {str(theirs)[:20]}, this model's {ours}",
                OTHER,
            )
