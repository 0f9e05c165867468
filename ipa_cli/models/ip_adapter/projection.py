"""What an adapter's file holds, told by the names and shapes of its tensors: which kind of IP-Adapter, or what else."""

from __future__ import annotations

from collections.abc import Mapping

from ipa_cli.models import kinds
from ipa_cli.models.architectures import flags
from ipa_cli.models.architectures.base import Architecture
from ipa_cli.models.ip_adapter.face import WIDTH
from ipa_cli.models.location import ModelError

Shapes = Mapping[str, tuple[int, ...]]
PERCEIVER = "perceiver_resampler."  # the second half of FaceID-Plus
PERCEIVER_DEPTH = 4
HINT = "choose the adapter's file with --ip-adapter-weight-name"


def what_else(names: Shapes) -> tuple[str, str]:
    """What a file is that holds no IP-Adapter, and what to type next."""
    kind = kinds.kind_of(names, kinds.ADAPTER)
    if kind is None:
        return "is no IP-Adapter", HINT
    return f"is no IP-Adapter but {kind.words}", kind.advice(HINT)


def takes(name: str, shapes: Shapes, architecture: Architecture) -> tuple[str, int]:
    """What the projection takes of an image encoder: the entry of its configuration, and the width.

    Raises ModelError for an adapter that sees through something else. FaceID adapters are for `face.of_shapes`.
    """
    width = {key: shapes[f"image_proj.{key}"][-1] for key in _FIRST if shapes.get(f"image_proj.{key}")}
    if width.get("proj_in.weight") == WIDTH:
        raise ModelError(
            f"{name} is an InstantID adapter: it takes a ControlNet of its own beside, which ipa has not",
            f"for faces use {flags(architecture.ip_adapters.plus_face)}",
        )
    if "proj.weight" in width:
        return "projection_dim", width["proj.weight"]
    for key in _FIRST[1:]:
        if key in width:
            return "hidden_size", width[key]
    raise ModelError(f"{name} projects images in an unknown way", "use an IP-Adapter, Plus, Plus-face or FaceID")


# The first layer of base adapters, of FaceID-Plus's second half, of Plus (a resampler), and of full-face (two layers
# for every hidden state).
_FIRST = ("proj.weight", f"{PERCEIVER}proj_in.weight", "proj_in.weight", "proj.0.weight")


def check(name: str, shapes: Shapes, cross: int) -> None:
    """Raise ModelError unless every tensor of the projection is there in its shape, and no other.

    `cross` is the width of the hidden states that the UNet's cross attention reads. The shapes are those that
    diffusers' `_convert_ip_adapter_image_proj_to_diffusers` takes.
    """
    found = {key.removeprefix("image_proj."): shape for key, shape in shapes.items() if key.startswith("image_proj.")}
    wanted = _wanted(found, cross)
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            raise ModelError(
                f"{name}: image_proj.{key} is {_shown(found.get(key))}, and should be {_shown(wanted.get(key))}",
                "use another adapter, or download it again",
            )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "a number"


def _wanted(found: Shapes, cross: int) -> dict[str, tuple[int, ...]]:
    if "proj.weight" in found:
        taken = found["proj.weight"][-1:]
        return {"proj.weight": (4 * cross, *taken), "proj.bias": (4 * cross,), **_both("norm", cross)}
    if "proj.3.weight" in found:
        width = found.get("proj.0.weight", (0,))[-1]
        layers = {"proj.0.weight": (width, width), "proj.0.bias": (width,), "proj.2.weight": (cross, width)}
        return {**layers, "proj.2.bias": (cross,), **_both("proj.3", cross)}
    if "proj.0.weight" in found:
        hidden, width, *_ = *found["proj.0.weight"], 0, 0
        out = max(1, found.get("proj.2.weight", (0,))[0] // cross) * cross
        layers = {"proj.0.weight": (hidden, width), "proj.0.bias": (hidden,), "proj.2.weight": (out, hidden)}
        layers |= {"proj.2.bias": (out,), **_both("norm", cross)}
        inner = {key.removeprefix(PERCEIVER): shape for key, shape in found.items() if key.startswith(PERCEIVER)}
        return layers | {
            f"{PERCEIVER}{key}": shape for key, shape in (_perceiver(inner, cross) if inner else {}).items()
        }
    _, tokens, *_ = *found.get("latents", ()), 0, 0
    hidden = found.get("proj_in.weight", (0,))[0]
    return {"latents": (1, tokens, hidden), **_perceiver(found, cross)}


def _perceiver(found: Shapes, cross: int) -> dict[str, tuple[int, ...]]:
    hidden, width, *_ = *found.get("proj_in.weight", ()), 0, 0
    inner = max(64, found.get("layers.0.0.to_q.weight", (0,))[0] // 64 * 64)
    wanted = {
        "proj_in.weight": (hidden, width),
        "proj_in.bias": (hidden,),
        "proj_out.weight": (cross, hidden),
        "proj_out.bias": (cross,),
        **_both("norm_out", cross),
    }
    for layer in (f"layers.{number}" for number in range(PERCEIVER_DEPTH)):
        wanted |= {**_both(f"{layer}.0.norm1", hidden), **_both(f"{layer}.0.norm2", hidden)}
        wanted |= {f"{layer}.0.to_q.weight": (inner, hidden), f"{layer}.0.to_kv.weight": (2 * inner, hidden)}
        wanted |= {f"{layer}.0.to_out.weight": (hidden, inner), **_both(f"{layer}.1.0", hidden)}
        wanted |= {f"{layer}.1.1.weight": (4 * hidden, hidden), f"{layer}.1.3.weight": (hidden, 4 * hidden)}
    return wanted


def _both(layer: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{layer}.weight": (width,), f"{layer}.bias": (width,)}
