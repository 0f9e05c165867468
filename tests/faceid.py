"""FaceID adapters in the layouts that people have, with random numbers, and faces to go with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, randn

WIDTH = 512
RANK = 4


def _linear(name: str, out: int, given: int) -> dict[str, Tensor]:
    return {f"{name}.weight": randn(out, given) * given**-0.5, f"{name}.bias": randn(out) / 10}


def _norm(name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + randn(width) / 10, f"{name}.bias": randn(width) / 10}


def projection(cross: int, tokens: int = 4, states: int | None = None) -> dict[str, Tensor]:
    """Of FaceID, or with `states`, the width of an image encoder's hidden states, of FaceID-Plus."""
    found = {**_linear("proj.0", 2 * WIDTH, WIDTH), **_linear("proj.2", tokens * cross, 2 * WIDTH)}
    found |= _norm("norm", cross)
    if states is not None:
        found |= {f"perceiver_resampler.{name}": tensor for name, tensor in _perceiver(cross, states).items()}
    return found


def unnormed_projection(cross: int, tokens: int = 16) -> dict[str, Tensor]:
    """Of the portrait adapter that takes embeddings as they come out: a resampler of one embedding."""
    width = 64
    found = {"latents": randn(1, tokens, width), **_perceiver(cross, WIDTH, width)}
    return {**found, "proj_in.weight": found["proj_in.weight"] / 4}


def _perceiver(cross: int, states: int, width: int | None = None) -> dict[str, Tensor]:
    width, inner = width or cross, 64 * max(1, (width or cross) // 64)
    found = {**_linear("proj_in", width, states), **_linear("proj_out", cross, width), **_norm("norm_out", cross)}
    for layer in (f"layers.{number}" for number in range(4)):
        for part in ("0.norm1", "0.norm2", "1.0"):
            found |= _norm(f"{layer}.{part}", width)
        sizes = {"0.to_q": (inner, width), "0.to_kv": (2 * inner, width), "0.to_out": (width, inner)}
        sizes |= {"1.1": (4 * width, width), "1.3": (width, 4 * width)}
        found |= {f"{layer}.{part}.weight": randn(size) * size[1] ** -0.5 for part, size in sizes.items()}
    return found


def attentions(unet: Any) -> list[str]:
    """Every attention of a UNet, in the order of IP-Adapter's files."""
    return [name for name, _ in unet.named_modules() if name.endswith((".attn1", ".attn2"))]


def keys_and_values(unet: Any, lora: bool, strength: float = 0.15) -> dict[str, Tensor]:
    """Keys and values of each cross attention, and with `lora` the matrices of every attention."""
    found: dict[str, Tensor] = {}
    for number, name in enumerate(attentions(unet)):
        attention = unet.get_submodule(name)
        if name.endswith(".attn2"):
            shape = attention.to_k.weight.shape
            found |= {f"{number}.to_{kind}_ip.weight": randn(shape) * shape[1] ** -0.5 for kind in "kv"}
        for kind, to in (
            ("q", attention.to_q),
            ("k", attention.to_k),
            ("v", attention.to_v),
            ("out", attention.to_out[0]),
        ):
            if lora:
                out, given = to.weight.shape
                found[f"{number}.to_{kind}_lora.down.weight"] = randn(RANK, given) * given**-0.5
                found[f"{number}.to_{kind}_lora.up.weight"] = randn(out, RANK) * strength
    return found


def write(
    path: Path, unet: Any, states: int | None = None, tokens: int = 4, lora: bool = True, unnormed: bool = False
) -> Path:
    """An adapter for a UNet, by the ending of its name as pickle in tables or as safetensors."""
    torch.manual_seed(len(path.name))
    cross = unet.config.cross_attention_dim
    image = unnormed_projection(cross) if unnormed else projection(cross, tokens, states)
    tables = {"image_proj": image, "ip_adapter": keys_and_values(unet, lora)}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".bin":
        torch.save(tables, path)
    else:
        from safetensors.torch import save_file

        save_file({f"{part}.{name}": tensor for part in tables for name, tensor in tables[part].items()}, path)
    return path


def lora_of(path: Path, names: list[str]) -> dict[str, Tensor]:
    """The LoRA inside an adapter's pickle as the separate file has it, for attentions of these names."""
    inside = torch.load(path, weights_only=True)["ip_adapter"]
    found = {}
    for name, tensor in inside.items():
        number, _, rest = name.partition(".")
        if "_lora." in rest:
            kind, part, _ = rest.split(".")
            module = f"{names[int(number)]}.{kind.removesuffix('_lora')}".replace("to_out", "to_out.0")
            found[f"lora_unet_{module.replace('.', '_')}.lora_{part}.weight"] = tensor.half()
    return found


def embedding(seed: int = 0, count: int = 1, normed: bool = True) -> np.ndarray:
    """Embeddings of faces, (count, 512) float32, of length 1 or about 23."""
    found = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True) if normed else found
