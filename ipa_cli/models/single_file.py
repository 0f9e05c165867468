"""Models in one file, as they are mostly shared, in the naming of their first code (LDM, SGM).

`read_checkpoint` finds out from the header alone what a file holds, `converted` names its tensors as diffusers does.
Nothing comes from a network: configurations and CLIP's vocabulary are in the package.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.models import architectures, kinds, missing, weights
from ipa_cli.models.architectures.base import PRESETS, Architecture, latents_of
from ipa_cli.models.kinds import WHOLE
from ipa_cli.models.location import Location, ModelError, expanded, is_file, read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

UNET, VAE = "model.diffusion_model.", "first_stage_model."
BLOCK = re.compile(
    re.escape(UNET)
    + r"(?P<place>input_blocks\.\d{1,3}|middle_block)\."
    + r"(0\.out_layers\.3\.weight$|1\.transformer_blocks\.(?P<layer>\d+)\.)"
)
MOST_TENSORS = 10_000  # SDXL has 2515, and 1680 more with a training's EMA weights


@dataclass(frozen=True)
class Checkpoint:
    """A `.safetensors` file and the names of its tensors by the part they belong to.

    `scheduler` is what its schedule has that the usual one of the architecture has not, `unet` that of its UNet.
    """

    path: Path
    parts: Mapping[str, frozenset[str]]
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unet: Mapping[str, Any] = field(default_factory=dict)

    def source(self, part: str) -> tuple[Path, frozenset[str]]:
        """The file, and the names of the tensors of one part in it."""
        return self.path, self.parts[part]


@dataclass(frozen=True)
class Part:
    """A part of a model: in a folder of a location, or in one file; and its configuration."""

    location: Location
    folder: str
    config: Mapping[str, Any]
    checkpoint: Checkpoint | None = None


def path_of(text: str, flag: str = "--model") -> Path | None:
    """The file that a flag names, None for anything else. Raises ModelError for a file of another format."""
    path = expanded(text)
    if weights.is_safetensors(path) and not is_file(path):
        missing.check(text, flag)
        raise ModelError(f"there is no file {path}", f"check the path given with {flag}")
    if weights.is_pickle(path) and is_file(path):
        raise ModelError(f"{path} is a pickle, which can run code when opened", "use its .safetensors version")
    if path.suffix.lower() == ".gguf":
        raise ModelError(f"{path} is a GGUF file, in which weights are quantised", "use the .safetensors version")
    return path if weights.is_safetensors(path) else None


def read_checkpoint(path: Path) -> tuple[Architecture, Checkpoint]:
    """What a file holds, by its header. Raises ModelError for all but a whole model of one of the architectures."""
    shapes = weights.header(path)
    if len(shapes) > MOST_TENSORS:
        raise ModelError(f"{path} holds {len(shapes)} tensors, more than any model of {architectures.names()}", WHOLE)
    if (foreign := kinds.first(kinds.FOREIGN, shapes)) is not None:
        raise ModelError(f"{path} is {foreign.words}", foreign.advice(WHOLE))
    architecture = next((one for one in architectures.TABLE if _is_whole(shapes, one)), None)
    if architecture is None:
        raise _not_whole(path, shapes)
    unet = _check_unet(path, shapes, architecture)
    prefixes = architecture.checkpoint_prefixes
    parts = {part: names for part, prefix in prefixes.items() if (names := _under(shapes, prefix))}
    scheduler, notes = _schedule(path, shapes, architecture)
    if _under(shapes, "model_ema."):
        notes += (f"the EMA weights in {path.name} are not read: it holds the usual ones too",)
    return architecture, Checkpoint(path.absolute(), parts, scheduler, notes, unet)


def read_vae(path: Path) -> tuple[Checkpoint, int]:
    """The VAE in a file, and its latents' channels: alone, in LDM's names or diffusers', or in a whole model.

    Raises ModelError for a file without one.
    """
    shapes = weights.header(path)
    prefix = next((prefix for prefix in (VAE, "vae.", "") if f"{prefix}decoder.conv_in.weight" in shapes), None)
    if prefix is None:
        kind, hint = kinds.kind_of(shapes), "name a VAE's .safetensors file, folder or repository with --vae"
        if kind is None or kind.flag == "--vae":
            raise ModelError(f"{path} is {'a file without a' if kind is None else 'an unknown kind of'} VAE", hint)
        raise ModelError(f"{path} is {kind.words}", kind.advice(hint))
    names = frozenset(
        name
        for name in _under(shapes, prefix)
        if re.match(r"(encoder|decoder|(post_)?quant_conv)\.", name[len(prefix) :])
    )
    _, channels, *_ = *shapes[f"{prefix}decoder.conv_in.weight"], 0, 0
    return Checkpoint(path.absolute(), {"vae": names}), channels


def configurations(architecture: Architecture) -> Location:
    """The configurations that the models of an architecture share."""
    return Location(PRESETS / architecture.preset)


def converted(
    architecture: Architecture, checkpoint: Checkpoint, part: str, module: nn.Module, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of a part by the names of `module`, which must be all there. Raises ModelError for a misfit."""
    try:
        named = _renamed(architecture, part, module, state)
        found = {weights.usual_name(name): tensor for name, tensor in named.items()}
    except (KeyError, IndexError) as error:  # diffusers takes some tensors, and their dimensions, for granted
        raise ModelError(f"{checkpoint.path} does not fit: its {part} lacks {error}", "use another file") from error
    fitting: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        one = found.get(weights.usual_name(name))
        if one is None or one.shape != tensor.shape:
            shape = "is missing" if one is None else f"has the shape {list(one.shape)}, not {list(tensor.shape)}"
            raise ModelError(f"{checkpoint.path} does not fit: {name} of its {part} {shape}", "use another file")
        fitting[name] = one
    return fitting


# --- what a header tells -------------------------------------------------------------------------------------------

Shapes = Mapping[str, tuple[int, ...]]


def _not_whole(path: Path, shapes: Shapes) -> ModelError:
    for architecture in architectures.TABLE:
        prefixes = architecture.checkpoint_prefixes
        wanted = ("unet", *architecture.text_encoders)
        here = [part for part in wanted if _under(shapes, prefixes[part])]
        if here[:1] == ["unet"] and len(here) > 1:
            lacking = ", ".join(part for part in wanted if part not in here)
            return ModelError(f"{path} is an {architecture.name} model without its {lacking}", WHOLE)
    if (kind := kinds.first(kinds.PARTS, shapes)) is None:
        return ModelError(f"{path} is not a model of {architectures.names()}", WHOLE)
    return ModelError(f"{path} is {kind.words}", kind.advice(WHOLE))


def _under(names: Iterable[str], prefix: str) -> frozenset[str]:
    return frozenset(name for name in names if name.startswith(prefix))


def _is_whole(names: Iterable[str], architecture: Architecture) -> bool:
    """Whether the UNet and all text encoders are there; the VAE may come from elsewhere."""
    prefixes = architecture.checkpoint_prefixes
    return all(_under(names, prefixes[part]) for part in ("unet", *architecture.text_encoders))


def _check_unet(path: Path, shapes: Shapes, architecture: Architecture) -> Mapping[str, Any]:
    """Raise ModelError unless the UNet takes what the architecture's takes, and has its blocks.

    Returns what its configuration has that the usual one has not: the channels of a model for inpainting.
    """
    config = read_json(configurations(architecture), "unet/config.json")
    _, channels, *_ = *shapes.get(f"{UNET}input_blocks.0.0.weight", ()), 0, 0
    if latents_of({"in_channels": channels}, architecture.latent_channels) != config["in_channels"]:
        kind = {8: "editing by instructions", 5: "depth", 7: "upscaling"}.get(channels, "other inputs")
        raise ModelError(
            f"{path} is an {architecture.name} model for {kind} ({channels} channels)", "use the base model"
        )
    if _blocks(shapes) != _usual_blocks(config):
        raise ModelError(
            f"{path} has other blocks than {architecture.name}, as SSD-1B and Segmind Vega have",
            "use a model with all of its blocks",
        )
    return {} if channels == config["in_channels"] else {"in_channels": channels}


def _blocks(shapes: Shapes) -> list[tuple[int, int]]:
    """Channels and transformer layers of each residual block on the way down, then of the middle."""
    widths: dict[str, int] = {}
    layers: dict[str, set[str]] = {}
    for name, shape in shapes.items():
        match = BLOCK.match(name)
        if match is not None and match["layer"] is None:
            widths[match["place"]] = sum(shape[:1])
        elif match is not None:
            layers.setdefault(match["place"], set()).add(match["layer"])
    in_order = sorted(widths, key=lambda place: int(place.partition(".")[2] or 1000))
    return [(widths[place], len(layers.get(place, ()))) for place in in_order]


def _usual_blocks(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    channels, depths = config["block_out_channels"], config.get("transformer_layers_per_block", 1)
    depths = [depths] * len(channels) if isinstance(depths, int) else depths
    levels = zip(config["down_block_types"], channels, depths, strict=True)
    down = [(width, depth * ("CrossAttn" in kind)) for kind, width, depth in levels]
    return [block for block in down for _ in range(config["layers_per_block"])] + [(channels[-1], depths[-1])]


def _schedule(path: Path, shapes: Shapes, architecture: Architecture) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """What a v-prediction model needs of its scheduler, and a note: by its marks, else its metadata."""
    marked = architecture.checkpoint_scheduler(shapes)
    if not marked and not weights.metadata(path).get("modelspec.prediction_type", "").startswith("v"):
        return {}, ()
    changes = marked or {"prediction_type": "v_prediction"}
    return changes, (f"{path.name} is a v-prediction model by {'its marks' if marked else 'its metadata'}",)


# --- tensors by diffusers' names -------------------------------------------------------------------------------------


def _renamed(architecture: Architecture, part: str, module: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from diffusers.loaders import single_file_utils as ldm

    if part == "unet":
        return ldm.convert_ldm_unet_checkpoint(state, module.config)
    if part in architecture.open_clip:
        prefix = architecture.checkpoint_prefixes[part]
        if (linear := state.get(f"{prefix}text_projection.weight")) is not None:
            # As a layer has it, the other way round; diffusers' first scripts wrote it so, and ComfyUI reads both.
            state = {f"{prefix}text_projection": linear.T, **state}
        return ldm.convert_open_clip_checkpoint(module, state, prefix=prefix)
    if part == "vae" and not any("down_blocks." in name for name in state):  # else it is named by diffusers
        return ldm.convert_ldm_vae_checkpoint(state, module.config)
    prefixes = "|".join(re.escape(prefix) for prefix in (architecture.checkpoint_prefixes[part], VAE, "vae."))
    return {re.sub(f"^({prefixes})", "", name): tensor for name, tensor in state.items()}
