"""Which IP-Adapter goes into a model, and which image encoder it sees through: told by small files and headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from . import families, hub, weights
from .config import Settings, suggest
from .errors import UsageError
from .families import Family
from .locations import Location, ModelError, expanded, folder_location, is_file, is_folder, read_json, repository

Shapes = Mapping[str, tuple[int, ...]]
# The image encoders of h94/IP-Adapter by what an adapter takes of them: CLIP ViT-H and ViT-bigG.
ENCODERS = {
    ("projection_dim", 1024): "models/image_encoder",
    ("hidden_size", 1280): "models/image_encoder",
    ("projection_dim", 1280): "sdxl_models/image_encoder",
    ("hidden_size", 1664): "sdxl_models/image_encoder",
}


@dataclass(frozen=True)
class AdapterPlan:
    """An IP-Adapter file and the image encoder that fits it."""

    location: Location
    file: str
    encoder: str
    encoder_config: Mapping[str, Any]
    encodes: bool = True  # False: its references come encoded, and the image encoder is not loaded


def plan_adapter(
    settings: Settings, base: Location, unet_config: Mapping[str, Any], family: Family, dummy: bool
) -> AdapterPlan:
    """Find the adapter asked for, or the model's own. Raises ModelError unless it fits the UNet and an encoder."""
    if dummy:
        if settings.ip_adapter is not None:
            raise UsageError("--load-format dummy builds its own adapter", "leave --ip-adapter out")
        config = read_json(base, "ip_adapter/image_encoder/config.json")
        return AdapterPlan(base, "", "ip_adapter/image_encoder", config)
    location, subfolder, weight_name = _locate(settings, base, family)
    file = _file(location, subfolder, weight_name)
    shapes = _shapes(location, file)
    if shapes is None:  # `check_fetched` looks at it when it is here
        return AdapterPlan(location, file, *_encoders(location, file)[0])
    _check_unet(f"{location}/{file}", shapes, unet_config, family, own=_brings_its_own(base))
    takes = _takes(f"{location}/{file}", shapes, family)
    return AdapterPlan(location, file, *_fitting(f"{location}/{file}", takes, _encoders(location, file)))


def check_fetched(adapter: AdapterPlan, unet_config: Mapping[str, Any], family: Family) -> None:
    """The checks of `plan_adapter` on an adapter whose shapes its hub did not tell: a pickle, fetched by now."""
    if adapter.file.endswith(".safetensors"):
        return
    name = f"{adapter.location}/{adapter.file}"
    shapes = _shapes(adapter.location, adapter.file)
    assert shapes is not None
    _check_unet(name, shapes, unet_config, family, own=False)
    _fitting(name, _takes(name, shapes, family), [(adapter.encoder, adapter.encoder_config)])


def cross_attention_layers(unet_config: Mapping[str, Any]) -> int:
    """How many cross-attention layers a UNet of this configuration has."""
    down = unet_config["down_block_types"]
    depth = unet_config.get("transformer_layers_per_block", 1)
    per_block = [depth] * len(down) if isinstance(depth, int) else list(depth)
    count = unet_config.get("layers_per_block", 2)
    total = per_block[-1]
    for kind, layers in zip(down, per_block, strict=True):
        total += layers * count * ("CrossAttn" in kind)
    for kind, layers in zip(unet_config["up_block_types"], reversed(per_block), strict=True):
        total += layers * (count + 1) * ("CrossAttn" in kind)
    return total


# --- finding -------------------------------------------------------------------------------------------------------


def _brings_its_own(base: Location) -> bool:
    return bool(base.files("ip_adapter"))


def _locate(settings: Settings, base: Location, family: Family) -> tuple[Location, str | None, str | None]:
    subfolder, weight_name = settings.ip_adapter_subfolder, settings.ip_adapter_weight_name
    if settings.ip_adapter is None and _brings_its_own(base):
        return base, subfolder or "ip_adapter", weight_name
    if settings.ip_adapter in (None, families.ADAPTERS):
        usual = PurePosixPath(family.base)
        return repository(families.ADAPTERS, None), subfolder or str(usual.parent), weight_name or usual.name
    path = expanded(settings.ip_adapter)
    if is_file(path):
        return folder_location(path.parent), subfolder, path.name
    if settings.ip_adapter and is_folder(path):
        return folder_location(path), subfolder, weight_name
    if not hub.is_repo_id(settings.ip_adapter):
        raise ModelError(
            f"there is no adapter '{settings.ip_adapter}'", "give a hub id (owner/name), a folder, a file, or none"
        )
    return repository(settings.ip_adapter, None), subfolder, weight_name


def _file(location: Location, subfolder: str | None, weight_name: str | None) -> str:
    """The adapter's file within `location`: the one named, or the only one there is."""
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    if weight_name:
        if not location.has(prefix + weight_name):
            here = [name.removeprefix(prefix) for name in location.files(prefix[:-1])]
            raise ModelError(
                f"{location} has no {prefix}{weight_name}{suggest(weight_name, here)}",
                "--ip-adapter-subfolder and --ip-adapter-weight-name choose the file",
            )
        return prefix + weight_name
    here = location.files(prefix[:-1])
    for suffix in (".safetensors", ".bin"):
        found = [name for name in here if name.endswith(suffix)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(name.removeprefix(prefix) for name in found)
            raise ModelError(f"{location} holds several adapters: {names}", "choose with --ip-adapter-weight-name")
    raise ModelError(f"{location} holds no adapter weights in '{prefix}'", "name their folder: --ip-adapter-subfolder")


def _shapes(location: Location, file: str) -> Shapes | None:
    """Shapes of an adapter's tensors; None for a pickle that is not here yet."""
    if location.folder is not None:
        return weights.adapter_shapes(location.folder / file)
    if not file.endswith(".safetensors"):
        return None
    assert location.repo is not None
    return hub.tensor_shapes(location.repo, file, location.revision)


def _encoders(location: Location, file: str) -> list[tuple[str, dict[str, Any]]]:
    """Image encoders that may belong to an adapter file, nearest first, with their configurations."""
    parent = str(PurePosixPath(file).parent)
    places = [f"{parent}/image_encoder" if parent != "." else "image_encoder", *ENCODERS.values(), "image_encoder"]
    if "vit-h" in file:
        places.insert(0, "models/image_encoder")
    found = [p for p in dict.fromkeys(places) if location.has(f"{p}/config.json")]
    if not found:
        raise ModelError(
            f"{location} has no image encoder for {file}",
            f"put the encoder it was trained with ({families.ADAPTERS} has two) into {places[0]}",
        )
    return [(place, read_json(location, f"{place}/config.json")) for place in found]


# --- what fits -----------------------------------------------------------------------------------------------------


def _check_unet(name: str, shapes: Shapes, unet_config: Mapping[str, Any], family: Family, own: bool) -> None:
    """Raise ModelError unless the adapter has keys and values for each cross-attention layer of the UNet."""
    width = next((shape[1] for key, shape in shapes.items() if key.endswith("1.to_k_ip.weight")), None)
    if width is None:
        raise ModelError(f"{name} is no IP-Adapter", "choose its file with --ip-adapter-weight-name")
    layers = sum(key.endswith(".to_k_ip.weight") for key in shapes)
    fits = int(unet_config["cross_attention_dim"]), cross_attention_layers(unet_config)
    if (width, layers) == fits:
        return
    made_for = next((other for other in families.FAMILIES if other.width == width), None)
    hint = "choose an adapter that was made for this model"
    if own:
        hint = "leave out --ip-adapter: the model brings its own"
    elif family.width == fits[0] and made_for not in (None, family):
        hint = f"this would fit: {_flags(_counterpart(name, shapes, family))}"
    raise ModelError(
        f"the adapter {name} is made for {f'{made_for.name}: ' if made_for else ''}{layers} cross-attention layers "
        f"of width {width}, the {family.name} model has {fits[1]} of width {fits[0]}",
        hint,
    )


def _takes(name: str, shapes: Shapes, family: Family) -> tuple[str, int]:
    """What the adapter's projection takes of an image encoder: the entry of its configuration, and the width."""
    if "image_proj.proj.weight" in shapes:
        return "projection_dim", shapes["image_proj.proj.weight"][1]
    if "image_proj.proj_in.weight" in shapes:  # Plus: a resampler
        return "hidden_size", shapes["image_proj.proj_in.weight"][1]
    if "image_proj.proj.3.weight" in shapes:  # Full-face: two layers for every hidden state
        return "hidden_size", shapes["image_proj.proj.0.weight"][1]
    if "image_proj.proj.0.weight" in shapes:
        raise ModelError(
            f"{name} is a FaceID adapter: it takes embeddings of a face recogniser, which ipa has not",
            f"for faces use {_flags(family.plus_face)}",
        )
    raise ModelError(f"{name} projects images in an unknown way", "use an IP-Adapter, Plus or Plus-face")


def _fitting(
    name: str, takes: tuple[str, int], encoders: Sequence[tuple[str, Mapping[str, Any]]]
) -> tuple[str, Mapping[str, Any]]:
    """The first image encoder whose width the adapter takes."""
    key, width = takes
    for place, config in encoders:
        if config.get(key) == width:
            return place, config
    have = ", ".join(f"{place} ({config.get(key)})" for place, config in encoders)
    known = ENCODERS.get(takes)
    raise ModelError(
        f"the adapter {name} takes images of width {width}, its image encoders give: {have}",
        f"put {families.ADAPTERS}'s {known} beside it as image_encoder/"
        if known
        else "put the encoder it was trained with beside it, or choose another --ip-adapter-weight-name",
    )


def _counterpart(name: str, shapes: Shapes, family: Family) -> str:
    """The adapter of the same kind that fits `family`."""
    if "image_proj.proj.weight" in shapes:
        return family.base
    return family.plus_face if "face" in name.rpartition("/")[2].lower() else family.plus


def _flags(file: str) -> str:
    path = PurePosixPath(file)
    choice = f"--ip-adapter-subfolder {path.parent} --ip-adapter-weight-name {path.name}"
    return f"--ip-adapter {families.ADAPTERS} {choice}"
