"""Which IP-Adapter goes into a model, and which image encoder it sees through: told by small files and headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ipa_cli.config import AdapterConfig
from ipa_cli.config.places import is_repo_id
from ipa_cli.errors import UsageError, suggest
from ipa_cli.models import architectures, configurations, hub, missing, weights
from ipa_cli.models.architectures.base import PRESETS, Architecture
from ipa_cli.models.configurations import cross_attention_layers, cross_attention_widths
from ipa_cli.models.ip_adapter import face, image_encoder, projection
from ipa_cli.models.ip_adapter.face import FaceInput
from ipa_cli.models.ip_adapter.image_encoder import Encoder
from ipa_cli.models.ip_adapter.projection import Shapes
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


@dataclass(frozen=True)
class AdapterPlan:
    """An IP-Adapter file and the image encoder that fits it, None where it sees faces through a recogniser alone."""

    location: Location
    file: str
    encoder: Encoder | None
    face: FaceInput | None = None  # of a FaceID adapter
    embedded: bool = False  # whether its references come encoded

    @property
    def encodes(self) -> bool:
        """Whether its image encoder is loaded."""
        return self.encoder is not None and not self.embedded


def plan_adapter(
    config: AdapterConfig, base: Location, unet_config: Mapping[str, Any], architecture: Architecture, dummy: bool
) -> AdapterPlan:
    """Find the adapter asked for, or the model's own. Raises ModelError unless it fits the UNet and an encoder."""
    if dummy:
        for flag, value in (("--ip-adapter", config.source), ("--image-encoder", config.encoder)):
            if value is not None:
                raise UsageError("--load-format dummy builds its own adapter", f"leave out {flag}")
        return AdapterPlan(base, "", Encoder(base, "ip_adapter/image_encoder", _dummy_encoder(base, architecture)))
    location, subfolder, weight_name = _locate(config, base, architecture)
    file = _file(location, subfolder, weight_name)
    name = f"{location}/{file}"
    shapes = _shapes(location, file)
    if shapes is not None:
        _check_unet(name, shapes, unet_config, architecture, own=_brings_its_own(base))
    seen = face.of_name(file, architecture) if shapes is None else face.of_shapes(file, shapes, architecture)
    if seen is not None and not seen.picture:
        return AdapterPlan(location, file, None, seen)
    takes = None if shapes is None else projection.takes(name, shapes, architecture)
    given = config.encoder
    candidates = image_encoder.beside(location, file, seen) if given is None else [image_encoder.named(given)]
    if takes is None:  # a pickle: `check_fetched` looks at it when it is here
        return AdapterPlan(location, file, candidates[0], seen)
    return AdapterPlan(location, file, _fitting(name, takes, candidates), seen)


def check_fetched(adapter: AdapterPlan, unet_config: Mapping[str, Any], architecture: Architecture) -> None:
    """Look at every tensor's shape, now that the file is here. Raises ModelError unless they fit UNet and encoder."""
    name = f"{adapter.location}/{adapter.file}"
    shapes = _shapes(adapter.location, adapter.file)
    assert shapes is not None
    _check_unet(name, shapes, unet_config, architecture, own=False)
    seen = face.of_shapes(adapter.file, shapes, architecture)
    if seen != adapter.face:
        raise ModelError(
            f"{name} is {_kind(seen)}, and its name says {_kind(adapter.face)}",
            "download it, and give the file itself: --ip-adapter FILE",
        )
    if adapter.encoder is not None:
        _fitting(name, projection.takes(name, shapes, architecture), [adapter.encoder])
    cross = int(unet_config["cross_attention_dim"])
    projection.check(name, shapes, cross)
    for layer, width in enumerate(cross_attention_widths(unet_config)):
        for key in (f"ip_adapter.{2 * layer + 1}.to_{kind}_ip.weight" for kind in "kv"):
            if shapes.get(key) != (width, cross):
                raise ModelError(
                    f"the adapter {name} has {key} as {shapes.get(key)}, "
                    f"the {architecture.name} model needs {width, cross}",
                    "choose an adapter that was made for this model",
                )


def _kind(seen: FaceInput | None) -> str:
    return f"a {seen} adapter" if seen else "no FaceID adapter"


# --- finding -------------------------------------------------------------------------------------------------------


def _brings_its_own(base: Location) -> bool:
    return bool(base.files("ip_adapter"))


def _locate(
    config: AdapterConfig, base: Location, architecture: Architecture
) -> tuple[Location, str | None, str | None]:
    subfolder, weight_name = config.subfolder, config.file
    if config.source is None and _brings_its_own(base):
        return base, subfolder or "ip_adapter", weight_name
    usual = PurePosixPath(architecture.ip_adapters.base)
    if config.source in (None, architectures.IP_ADAPTERS):
        return repository(architectures.IP_ADAPTERS, None), subfolder or str(usual.parent), weight_name or usual.name
    path = expanded(config.source)
    if is_file(path):
        missing.check(config.source, "--ip-adapter")
        return folder_location(path.parent), None, path.name
    if config.source and is_folder(path):
        location = folder_location(path)
        if subfolder is weight_name is None and location.has(str(usual)):  # a copy of h94's repository
            return location, str(usual.parent), usual.name
        return location, subfolder, weight_name
    if not is_repo_id(config.source):
        missing.check(config.source, "--ip-adapter")
        raise ModelError(
            f"there is no adapter '{config.source}'", "give a hub id (owner/name), a folder, a file, or none"
        )
    return repository(config.source, None), subfolder, weight_name


def _file(location: Location, subfolder: str | None, weight_name: str | None) -> str:
    """The adapter's file within `location`: the one named, or the only one there is."""
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    if weight_name:
        if not location.has(prefix + weight_name):
            here = [name.removeprefix(prefix) for name in location.files(prefix[:-1])]
            raise location.lacks(
                f"{prefix}{weight_name}",
                "--ip-adapter-subfolder and --ip-adapter-weight-name choose the file",
                suggest(weight_name, here),
            )
        if not (weights.is_safetensors(weight_name) or weights.is_pickle(weight_name)):
            what = f"{location}/{prefix}{weight_name} is no weight file: it has another suffix"
            raise ModelError(what, "name a .safetensors file")
        return prefix + weight_name
    here = location.files(prefix[:-1])
    for is_of_kind in (weights.is_safetensors, weights.is_pickle):
        found = [name for name in here if is_of_kind(name)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(name.removeprefix(prefix) for name in found)
            raise ModelError(f"{location} holds several adapters: {names}", "choose with --ip-adapter-weight-name")
    where = f"{location}/{prefix}".rstrip("/")
    raise ModelError(f"{where} holds no adapter weights", "name their folder: --ip-adapter-subfolder")


def _shapes(location: Location, file: str) -> Shapes | None:
    """Shapes of an adapter's tensors; None for a pickle that is not here yet."""
    if location.folder is not None:
        return weights.adapter_shapes(location.folder / file)
    if not weights.is_safetensors(file):
        return None
    assert location.repo is not None
    shapes = hub.tensor_shapes(location.repo, file, location.revision)
    return {weights.adapter_name(key): shape for key, shape in shapes.items()}


def _dummy_encoder(base: Location, architecture: Architecture) -> Mapping[str, Any]:
    """The configuration of the model's own image encoder, else of that of its architecture's adapters."""
    name = "ip_adapter/image_encoder/config.json"
    location = base if base.has(name) else folder_location(PRESETS / architecture.preset)
    return configurations.image_encoder(f"{location}/{name}", read_json(location, name))


# --- what fits -----------------------------------------------------------------------------------------------------


def _check_unet(
    name: str, shapes: Shapes, unet_config: Mapping[str, Any], architecture: Architecture, own: bool
) -> None:
    """Raise ModelError unless the adapter has keys and values for each cross-attention layer of the UNet."""
    width = next((shape[-1] for key, shape in shapes.items() if shape and key.endswith("1.to_k_ip.weight")), None)
    if width is None:
        what, hint = projection.what_else(shapes)
        raise ModelError(f"{name} {what}", hint)
    layers = sum(key.endswith(".to_k_ip.weight") for key in shapes)
    fits = int(unet_config["cross_attention_dim"]), cross_attention_layers(unet_config)
    if (width, layers) == fits:
        return
    made_for = next((other for other in architectures.TABLE if other.cross_attention_dim == width), None)
    hint = "choose an adapter that was made for this model"
    if own:
        hint = "leave out --ip-adapter: the model brings its own"
    elif architecture.cross_attention_dim == fits[0] and made_for not in (None, architecture):
        hint = f"this would fit: {_counterpart(name, shapes, architecture)}"
    raise ModelError(
        f"the adapter {name} is made for {f'{made_for.name}: ' if made_for else ''}{layers} cross-attention layers "
        f"of width {width}, the {architecture.name} model has {fits[1]} of width {fits[0]}",
        hint,
    )


def _fitting(name: str, takes: tuple[str, int], candidates: Sequence[Encoder]) -> Encoder:
    """The first image encoder whose width the adapter takes."""
    key, width = takes
    for encoder in candidates:
        if encoder.config.get(key) == width:
            return encoder
    have = ", ".join(f"{encoder} ({encoder.config.get(key)})" for encoder in candidates)
    known = image_encoder.KNOWN.get(takes)
    raise ModelError(
        f"the adapter {name} takes images of width {width}, its image encoders give: {have}",
        f"--image-encoder {architectures.IP_ADAPTERS}:{known}"
        if known
        else "name the encoder it was trained with: --image-encoder, or choose another --ip-adapter-weight-name",
    )


def _counterpart(name: str, shapes: Shapes, architecture: Architecture) -> str:
    """The flags that choose the adapter of the same kind that fits `architecture`."""
    files, seen = architecture.ip_adapters, face.of_shapes(name, shapes, architecture)
    if seen is not None:
        return face.counterpart(seen, architecture)
    if "image_proj.proj.weight" in shapes:
        return architectures.flags(files.base)
    return architectures.flags(files.plus_face if "face" in name.rpartition("/")[2].lower() else files.plus)
