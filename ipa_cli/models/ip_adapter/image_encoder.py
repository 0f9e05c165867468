"""The image encoder that an adapter sees through: the one named, or one that lies beside it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ipa_cli.config.places import is_repo_id
from ipa_cli.models import architectures, configurations, hub, missing, weights
from ipa_cli.models.ip_adapter.face import FaceInput
from ipa_cli.models.location import (
    Location,
    ModelError,
    expanded,
    folder_location,
    inside,
    is_file,
    is_folder,
    read_json,
    repository,
)

Shapes = Mapping[str, tuple[int, ...]]
# The image encoders of h94/IP-Adapter by what an adapter takes of them: CLIP ViT-H and ViT-bigG.
KNOWN = {
    ("projection_dim", 1024): "models/image_encoder",
    ("hidden_size", 1280): "models/image_encoder",
    ("projection_dim", 1280): "sdxl_models/image_encoder",
    ("hidden_size", 1664): "sdxl_models/image_encoder",
}
# What the shapes of CLIP's weights do not tell, by their width: heads and activation of OpenCLIP's ViT-H and ViT-bigG.
HEADS = {1280: (16, "gelu"), 1664: (16, "gelu")}


@dataclass(frozen=True)
class Encoder:
    """An image encoder: a folder of a location, or one `.safetensors` file in it, and its configuration."""

    location: Location
    part: str
    config: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.location}/{self.part}" if self.part else str(self.location)


def named(text: str) -> Encoder:
    """The image encoder that `--image-encoder` names: a file, a folder, or a hub id with a folder or file in it."""
    path = expanded(text)
    if is_file(path):
        if not weights.is_safetensors(path):
            missing.check(text, "--image-encoder")
            raise ModelError(f"{path} is no .safetensors file", "name the image encoder's model.safetensors")
        return _of(folder_location(path.parent), path.name)
    if is_folder(path):
        return _of(folder_location(path), "")
    repo, _, part = text.partition(":")
    if not is_repo_id(repo):
        missing.check(text, "--image-encoder")
        raise ModelError(
            f"there is no image encoder '{text}'", "give a .safetensors file, a folder, or a hub id (owner/name:folder)"
        )
    return _of(repository(repo, None), part.strip("/"))


def beside(location: Location, file: str, face: FaceInput | None = None) -> list[Encoder]:
    """Image encoders that may belong to an adapter file, nearest first.

    FaceID-Plus adapters of the hub come without one: theirs is that of `IP_ADAPTERS`.
    """
    own = inside(str(PurePosixPath(file).parent).removeprefix("."), "image_encoder")
    places = [own, *KNOWN.values(), "image_encoder"]
    if "vit-h" in file or face is not None:
        places.insert(0, "models/image_encoder")
    found = [place for place in dict.fromkeys(places) if location.has(f"{place}/config.json")]
    if not found and face is not None and location.repo is not None:
        return [_of(repository(architectures.IP_ADAPTERS, None), KNOWN["hidden_size", 1280])]
    if not found:
        example = (
            _of_comfyui(location)
            or f"{architectures.IP_ADAPTERS}:{places[0 if 'vit-h' in file or face is not None else 1]}"
        )
        raise ModelError(
            f"{location} has no image encoder for {file}", f"name it, for example --image-encoder {example}"
        )
    return [_of(location, place) for place in found]


def _of_comfyui(location: Location) -> str | None:
    """An image encoder where ComfyUI keeps them: in a folder beside that of the adapters."""
    if location.folder is None:
        return None
    beside = folder_location(location.folder.parent / "clip_vision")
    found = [name for name in beside.files() if weights.is_safetensors(name)]
    return shlex.quote(f"{beside}/{found[0]}") if found else None


def _of(location: Location, part: str) -> Encoder:
    if weights.is_safetensors(part):
        if location.folder is not None:
            shapes: Shapes = weights.header(location.folder / part)
        elif location.has(part):
            assert location.repo is not None
            shapes = hub.tensor_shapes(location.repo, part, location.revision)
        else:
            raise location.lacks(part, "check --image-encoder")
        return Encoder(location, part, _beside(location, part, shapes) or of_shapes(f"{location}/{part}", shapes))
    if not location.has(inside(part, "config.json")):
        known = [name for name in location.files(part) if weights.is_safetensors(name)]
        example = known[0] if known else "model.safetensors"
        raise ModelError(
            f"{inside(str(location), part)} is no image encoder: it has no config.json",
            f"name a folder that has one, or the file: {inside(str(location), example)}",
        )
    name = inside(part, "config.json")
    return Encoder(location, part, configurations.image_encoder(f"{location}/{name}", read_json(location, name)))


def _beside(location: Location, part: str, shapes: Shapes) -> dict[str, Any] | None:
    """The configuration beside an encoder's file, if it is one of its width: it tells more than shapes do."""
    name = str(PurePosixPath(part).with_name("config.json"))
    width, *_ = *shapes.get("vision_model.embeddings.patch_embedding.weight", ()), 0
    if not width or not location.has(name):
        return None
    said = read_json(location, name)
    inner = said.get("vision_config", said)
    if "clip" not in str(said.get("model_type")) or not isinstance(inner, dict) or inner.get("hidden_size") != width:
        return None
    return configurations.image_encoder(f"{location}/{name}", said)


def of_shapes(name: str, shapes: Shapes) -> dict[str, Any]:
    """The configuration of a CLIP image encoder by the shapes of its tensors, as transformers names them.

    Raises ModelError for another kind of file, and for a width whose number of heads is not known.
    """
    try:
        hidden, channels, patch, _ = shapes["vision_model.embeddings.patch_embedding.weight"]
        positions, _ = shapes["vision_model.embeddings.position_embedding.weight"]
        intermediate, _ = shapes["vision_model.encoder.layers.0.mlp.fc1.weight"]
        projection, _ = shapes["visual_projection.weight"]
        side = math.isqrt(positions - 1)
    except (KeyError, ValueError):
        raise ModelError(
            f"{name} is no CLIP image encoder with a projection",
            f"use the model.safetensors of {architectures.IP_ADAPTERS}'s models/image_encoder",
        ) from None
    if hidden not in HEADS:
        raise ModelError(
            f"{name} is {hidden} wide, which is neither CLIP's ViT-H nor its ViT-bigG",
            "put it into a folder with its config.json, and name that",
        )
    heads, activation = HEADS[hidden]
    config = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "projection_dim": projection,
        "num_hidden_layers": sum(key.endswith(".layer_norm1.weight") for key in shapes),
        "num_attention_heads": heads,
        "num_channels": channels,
        "image_size": side * patch,
        "patch_size": patch,
        "hidden_act": activation,
    }
    return configurations.image_encoder(name, config)
