"""LoRA files as trainers write them, with random numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import ipa_cli


def matrices(weight: Tensor, rank: int, seed: int, strength: float) -> dict[str, Tensor]:
    """A down and an up for a weight, so that their product has about `strength` of its norm."""
    generator = torch.Generator().manual_seed(seed)
    out, given = weight.shape[:2]
    down = torch.randn(rank, *weight.shape[1:], generator=generator) * given**-0.5
    up = torch.randn(out, rank, *[1] * (weight.ndim - 2), generator=generator)
    product = up.flatten(1) @ down.flatten(1)
    return {"down": down, "up": up * (strength * float(weight.float().norm()) / float(product.norm()))}


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


def demo_unet() -> nn.Module:
    """The UNet of the demo model, without values."""
    from ipa_cli.networks.common import without_weights
    from ipa_cli.unet.model import UNet

    with without_weights():
        return UNet(json.loads((Path(ipa_cli.__file__).parent / "demo/unet/config.json").read_text()))


def of_demo(seed: int = 0, strength: float = 0.1) -> dict[str, Tensor]:
    """A LoRA that fits the demo model's UNet and changes two of its layers a little."""
    ends = ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attentions.0.proj_in")
    shapes = {name: weight.shape for name, weight in modules(demo_unet(), ends).items()}
    found = {}
    for name, shape in shapes.items():
        pair = matrices(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), 4, seed, strength)
        found[f"unet.{name}.lora_A.weight"], found[f"unet.{name}.lora_B.weight"] = pair["down"], pair["up"]
    return found


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """A `.safetensors` file."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, dict(metadata or {}))
    return path


def kohya(tensors: Mapping[str, Tensor], names: Mapping[str, str], alpha: float | None = None) -> dict[str, Tensor]:
    """The tensors of `peft` as kohya's trainers write them; `names` are theirs by part and module."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.removesuffix(".weight").rpartition(".")
        found[f"{names[module]}.{'lora_down' if kind == 'lora_A' else 'lora_up'}.weight"] = tensor
        if alpha is not None:
            found[f"{names[module]}.alpha"] = torch.tensor(alpha)
    return found


def kohya_names(parts: Mapping[str, nn.Module]) -> dict[str, str]:
    """kohya's name of every module of SDXL: by LDM's names in the UNet."""
    from ipa_cli.models.lora import names

    found = {}
    for part, root in parts.items():
        for name, module in root.named_modules():
            if getattr(module, "weight", None) is None:
                continue
            if part == "unet":
                up = [hasattr(block, "attentions") for block in root.up_blocks]
                ldm = names.of_ldm(name, root.config.layers_per_block, up)
                found[f"{part}.{name}"] = f"lora_unet_{(ldm or name).replace('.', '_')}"
            else:
                found[f"{part}.{name}"] = names.of_text_encoder(part, name)[3]
    return found
