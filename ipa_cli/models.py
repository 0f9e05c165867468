"""Where weights come from: the shipped miniature, a hub repository, a folder, one file, or seeded random numbers.

`plan` reads only small files and finds out whether the parts fit; `loading.load` then fetches and builds them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from . import hub, weights
from .config import Settings, suggest
from .errors import IpaError, UsageError

HERE = Path(__file__).parent
DEMO = HERE / "demo"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
SDXL_ADAPTER = "h94/IP-Adapter"
PRESETS = ("demo", "sdxl")
DEFAULTS = {"steps": 30, "guidance_scale": 5.0, "scale": 0.6, "negative_prompt": ""}


class ModelError(IpaError):
    """A model, or one of its parts, is missing, broken or does not fit the others."""


@dataclass(frozen=True)
class Location:
    """A folder of model files, on disk or (not yet fetched) in a hub repository."""

    folder: Path | None
    repo: str | None = None
    revision: str | None = None
    names: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.repo or str(self.folder)


@dataclass(frozen=True)
class AdapterPlan:
    """An IP-Adapter file and the image encoder that fits it."""

    location: Location
    file: str
    encoder: str
    encoder_config: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """What to load, and what the model would like where the user said nothing."""

    name: str
    location: Location
    dummy: bool
    unet_config: Mapping[str, Any]
    adapter: AdapterPlan | None
    defaults: Mapping[str, Any]
    variant: str | None
    single_file: Path | None = None


def plan(settings: Settings) -> Plan:
    """Find the model and its adapter, and check that they fit, before anything large is fetched or loaded."""
    dummy = settings.load_format == "dummy"
    single = _single_file(settings.model)
    location = (
        Location(HERE / "presets" / "sdxl") if single or (dummy and settings.model == "sdxl") else _locate(settings)
    )
    unet_config = read_json(location, "unet/config.json")
    if unet_config.get("addition_embed_type") != "text_time":
        raise ModelError(f"{settings.model} is not an SDXL model", "use --model sdxl, or a model derived from it")
    defaults = _defaults(settings, location, unet_config)
    wanted = settings.ip_adapter != "none" and (settings.image or defaults.get("reference"))
    adapter = _plan_adapter(settings, location, unet_config, dummy) if wanted else None
    return Plan(settings.model, location, dummy, unet_config, adapter, defaults, settings.variant, single_file=single)


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


def _single_file(model: str) -> Path | None:
    path = Path(model).expanduser()
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise ModelError(f"there is no file {path}", "check the path given with --model")
        if not any(key.startswith("conditioner.embedders.1.") for key in weights.header(path)):
            raise ModelError(f"{path} is not an SDXL checkpoint: it has no second text encoder", "use --model sdxl")
        return path
    if path.suffix in (".ckpt", ".bin", ".pt", ".pth") and path.is_file():
        raise ModelError(f"{path} is a pickle, which can run code when opened", "use its .safetensors version")
    return None


def _locate(settings: Settings) -> Location:
    if settings.model == "demo":
        return folder_location(DEMO)
    if settings.model == "sdxl":
        return _repository(SDXL, settings.revision)
    path = Path(settings.model).expanduser()
    if settings.model and path.is_dir():
        location = folder_location(path)
        if "model_index.json" not in location.names:
            raise ModelError(
                f"{path} is no diffusers folder: it has no model_index.json", "name the folder above unet/"
            )
        return location
    if path.is_absolute() or settings.model.startswith((".", "~")):
        raise ModelError(f"there is no folder or file {path}", "check the path given with --model")
    if "/" not in settings.model or not hub.is_repo_id(settings.model):
        raise UsageError(
            f"unknown model '{settings.model}'{suggest(settings.model, PRESETS)}",
            "give demo, sdxl, a hub id (owner/name), a diffusers folder or a .safetensors file",
        )
    return _repository(settings.model, settings.revision)


def folder_location(path: Path) -> Location:
    """A folder on disk and the names of all files in it."""
    names = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    return Location(path.absolute(), names=frozenset(names))


def _repository(repo: str, revision: str | None) -> Location:
    return Location(None, repo, revision, frozenset(hub.list_files(repo, revision)))


def read_json(location: Location, name: str) -> dict[str, Any]:
    """A JSON object in a location, fetched first where it is on the hub. Raises ModelError when it is not there."""
    if location.folder is None:
        assert location.repo is not None
        from .report import Silent

        path = hub.fetch(location.repo, location.revision, [name], Silent(), shows_bars=False) / name
    else:
        path = location.folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{location} has no {name}", "name a whole diffusers folder with --model") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "download it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object", "download it again")
    return content


def _defaults(settings: Settings, location: Location, unet_config: Mapping[str, Any]) -> dict[str, Any]:
    side = 8 * int(unet_config.get("sample_size") or 128)
    found = {**DEFAULTS, "width": side, "height": side}
    miniature = read_json(folder_location(DEMO), "defaults.json")
    miniature["reference"] = str(DEMO / miniature["reference"])
    if location.folder == DEMO.absolute():
        found |= miniature
    elif settings.load_format == "dummy":
        # Random weights draw noise whatever they are asked: the miniature's inputs serve.
        found |= {key: miniature[key] for key in ("prompt", "reference")}
    return found


def _plan_adapter(
    settings: Settings, base: Location, unet_config: Mapping[str, Any], dummy: bool
) -> AdapterPlan | None:
    if dummy:
        if settings.ip_adapter is not None:
            raise UsageError("--load-format dummy builds its own adapter", "leave --ip-adapter out")
        config = read_json(base, "ip_adapter/image_encoder/config.json")
        return AdapterPlan(base, "", "ip_adapter/image_encoder", config)
    location, subfolder, weight_name = _locate_adapter(settings, base)
    file = _adapter_file(location, subfolder, weight_name)
    shapes = _adapter_shapes(location, file)
    if shapes is None:  # a pickle tells its shapes only when it is opened; attention.install checks them then
        encoders = _encoders(location, file)
        return AdapterPlan(location, file, *encoders[0])
    width = next((shape[1] for key, shape in shapes.items() if key.endswith("1.to_k_ip.weight")), None)
    if width is None:
        raise ModelError(f"{location}/{file} is no IP-Adapter", "choose its file with --ip-adapter-weight-name")
    layers = sum(key.endswith(".to_k_ip.weight") for key in shapes)
    fits = int(unet_config["cross_attention_dim"]), cross_attention_layers(unet_config)
    if (width, layers) != fits:
        raise ModelError(
            f"the adapter {location}/{file} is made for {layers} cross-attention layers of width {width}, "
            f"{settings.model} has {fits[1]} of width {fits[0]}",
            "SDXL (width 2048) takes files from sdxl_models, SD 1.5 (width 768) those from models",
        )
    return _with_encoder(location, file, shapes)


def _locate_adapter(settings: Settings, base: Location) -> tuple[Location, str | None, str | None]:
    subfolder, weight_name = settings.ip_adapter_subfolder, settings.ip_adapter_weight_name
    if settings.ip_adapter is None:
        if any(name.startswith("ip_adapter/") for name in base.names):
            return base, subfolder or "ip_adapter", weight_name
        return (
            _repository(SDXL_ADAPTER, None),
            subfolder or "sdxl_models",
            weight_name or "ip-adapter_sdxl.safetensors",
        )
    path = Path(settings.ip_adapter).expanduser()
    if path.is_file():
        return folder_location(path.parent), subfolder, path.name
    if settings.ip_adapter and path.is_dir():
        return folder_location(path), subfolder, weight_name
    if "/" not in settings.ip_adapter or not hub.is_repo_id(settings.ip_adapter):
        raise ModelError(
            f"there is no adapter '{settings.ip_adapter}'", "give a hub id (owner/name), a folder, a file, or none"
        )
    return _repository(settings.ip_adapter, None), subfolder, weight_name


def _adapter_file(location: Location, subfolder: str | None, weight_name: str | None) -> str:
    """The adapter's file within `location`: the one named, or the only one there is."""
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    if weight_name:
        if prefix + weight_name not in location.names:
            here = [name.removeprefix(prefix) for name in location.names if name.startswith(prefix)]
            raise ModelError(
                f"{location} has no {prefix}{weight_name}{suggest(weight_name, here)}",
                "--ip-adapter-subfolder and --ip-adapter-weight-name choose the file",
            )
        return prefix + weight_name
    for suffix in (".safetensors", ".bin"):
        found = sorted(
            name
            for name in location.names
            if name.startswith(prefix) and "/" not in name[len(prefix) :] and name.endswith(suffix)
        )
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(name.removeprefix(prefix) for name in found)
            raise ModelError(f"{location} holds several adapters: {names}", "choose with --ip-adapter-weight-name")
    raise ModelError(f"{location} holds no adapter weights in '{prefix}'", "name their folder: --ip-adapter-subfolder")


def _adapter_shapes(location: Location, file: str) -> dict[str, tuple[int, ...]] | None:
    if not file.endswith(".safetensors"):
        return None
    if location.folder is not None:
        return weights.header(location.folder / file)
    assert location.repo is not None
    return hub.tensor_shapes(location.repo, file, location.revision)


def _encoders(location: Location, file: str) -> list[tuple[str, dict[str, Any]]]:
    """Image encoders that may belong to an adapter file, nearest first, with their configurations."""
    parent = str(PurePosixPath(file).parent)
    places = [f"{parent}/image_encoder" if parent != "." else "image_encoder", "models/image_encoder", "image_encoder"]
    if "vit-h" in file:
        places.insert(0, "models/image_encoder")
    found = [p for p in dict.fromkeys(places) if f"{p}/config.json" in location.names]
    if not found:
        raise ModelError(f"{location} has no image encoder for {file}", f"put one into {places[0]}")
    return [(place, read_json(location, f"{place}/config.json")) for place in found]


def _with_encoder(location: Location, file: str, shapes: Mapping[str, tuple[int, ...]]) -> AdapterPlan:
    """Pair an adapter with the image encoder whose width it takes."""
    plus = shapes.get("image_proj.proj_in.weight")
    base = shapes.get("image_proj.proj.weight")
    wanted, key = (plus, "hidden_size") if plus else (base, "projection_dim")
    if wanted is None:
        raise ModelError(f"{location}/{file} projects images in an unknown way", "use an IP-Adapter, Plus or Plus-face")
    encoders = _encoders(location, file)
    for place, config in encoders:
        if config.get(key) == wanted[1]:
            return AdapterPlan(location, file, place, config)
    have = ", ".join(f"{place} ({config.get(key)})" for place, config in encoders)
    raise ModelError(
        f"the adapter {location}/{file} takes images of width {wanted[1]}, its image encoders give: {have}",
        "put the encoder it was trained with beside it, or choose another --ip-adapter-weight-name",
    )
