"""LoRA files as trainers write them, with random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def matrices(weight: Tensor, rank: int, seed: int, strength: float) -> dict[str, Tensor]:
    """A down and an up for a weight, so that their product has about `strength` of its norm."""
    generator = torch.Generator().manual_seed(seed)
    out, given = weight.shape[:2]
    down = torch.randn(rank, *weight.shape[1:], generator=generator) * given**-0.5
    up = torch.randn(out, rank, *[1] * (weight.ndim - 2), generator=generator)
    product = up.flatten(1) @ down.flatten(1)
    return {"down": down, "up": up * (strength * weight.float().norm() / product.norm())}


def modules(root: nn.Module, wanted: Iterable[str]) -> dict[str, Tensor]:
    """The weights of the modules whose names end with one of `wanted`."""
    named = {name: getattr(module, "weight", None) for name, module in root.named_modules()}
    ends = tuple(wanted)
    return {name: weight for name, weight in named.items() if weight is not None and name.endswith(ends)}


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
ALL = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def peft(
    parts: Mapping[str, nn.Module],
    wanted: Iterable[str] = ALL,
    rank: int = 4,
    seed: int = 0,
    strength: float = 0.3,
    names: tuple[str, str] = ("lora_A", "lora_B"),
) -> dict[str, Tensor]:
    """The tensors of a file of diffusers or PEFT, which changes these parts of a model ("unet", "text_encoder")."""
    found: dict[str, Tensor] = {}
    for part, root in parts.items():
        for number, (name, weight) in enumerate(modules(root, (*wanted, *TEXT)).items()):
            pair = matrices(weight, rank, seed + number, strength)
            found[f"{part}.{name}.{names[0]}.weight"] = pair["down"]
            found[f"{part}.{name}.{names[1]}.weight"] = pair["up"]
    return found


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """A `.safetensors` file."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, dict(metadata or {}))
    return path
