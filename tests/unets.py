"""UNets of SDXL's shape with random weights, small enough to run and compile on two cores."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ipa_cli.unet.attention import Adapters, install, layers, project
from ipa_cli.unet.inputs import AddedConditions, Context, ControlResiduals, UNetInputs
from ipa_cli.unet.model import UNet

IMAGE_DIM = 48
TINY: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "attention_head_dim": [2, 2],
    "block_out_channels": [32, 32],
    "cross_attention_dim": 64,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "projection_class_embeddings_input_dim": 8 * 6 + 32,
    "sample_size": 16,
    "transformer_layers_per_block": [1, 2],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}

# On one level: the fewest kinds of parts that draw with references, for graphs that are compiled to see who compiles.
FLAT: dict[str, Any] = {
    **TINY,
    "block_out_channels": [32],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "transformer_layers_per_block": [1],
    "attention_head_dim": [2],
    "up_block_types": ["CrossAttnUpBlock2D"],
}


# What SD 1.5 has not, and its convolutions around the transformers.
AS_SD15: dict[str, Any] = {
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "projection_class_embeddings_input_dim": None,
    "use_linear_projection": False,
}


def tiny_unet(seed: int = 0, changes: Mapping[str, Any] | None = None) -> Any:
    """One downsampler, one width: few kinds of parts to compile, and yet every sort."""
    torch.manual_seed(seed)
    return UNet({**TINY, **(changes or {})}).eval().requires_grad_(False)


def diffusers_unet(seed: int = 0, changes: Mapping[str, Any] | None = None) -> Any:
    """diffusers' UNet with the weights of `tiny_unet`."""
    from diffusers import UNet2DConditionModel

    theirs = UNet2DConditionModel(**{**TINY, **(changes or {})}).eval().requires_grad_(False)
    theirs.load_state_dict(tiny_unet(seed, changes).state_dict())
    return theirs


def adapter(unet: Any, tokens: int = 4, seed: int = 0, image_dim: int = IMAGE_DIM) -> dict[str, dict[str, Tensor]]:
    """Random weights of a base IP-Adapter, as a file holds them."""
    torch.manual_seed(seed)
    cross = unet.config.cross_attention_dim
    state = {
        "image_proj": {
            "proj.weight": torch.randn(tokens * cross, image_dim) * image_dim**-0.5,
            "proj.bias": torch.zeros(tokens * cross),
            "norm.weight": torch.ones(cross),
            "norm.bias": torch.zeros(cross),
        },
        "ip_adapter": {},
    }
    for layer, name in enumerate(layers(unet)):
        inner = unet.get_submodule(name).to_k.out_features
        for kind in "kv":
            weight = torch.randn(inner, cross) * cross**-0.5
            state["ip_adapter"][f"{2 * layer + 1}.to_{kind}_ip.weight"] = weight
    return state


def plus_projection(cross: int, dim: int, latents: int, hidden: int = 128) -> dict[str, Tensor]:
    """Random weights of a Plus adapter's resampler under the names they have in files."""
    torch.manual_seed(0)

    def linear(out: int, given: int) -> Tensor:
        return torch.randn(out, given) * given**-0.5

    state = {
        "latents": torch.randn(1, latents, hidden),
        "proj_in.weight": linear(hidden, dim),
        "proj_in.bias": torch.randn(hidden) / 8,
        "proj_out.weight": linear(cross, hidden),
        "proj_out.bias": torch.randn(cross) / 8,
        "norm_out.weight": torch.rand(cross) + 0.5,
        "norm_out.bias": torch.randn(cross) / 8,
    }
    for layer in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            state[f"layers.{layer}.{norm}.weight"] = torch.rand(hidden) + 0.5
            state[f"layers.{layer}.{norm}.bias"] = torch.randn(hidden) / 8
        state[f"layers.{layer}.0.to_q.weight"] = linear(128, hidden)
        state[f"layers.{layer}.0.to_kv.weight"] = linear(256, hidden)
        state[f"layers.{layer}.0.to_out.weight"] = linear(hidden, 128)
        state[f"layers.{layer}.1.1.weight"] = linear(4 * hidden, hidden)
        state[f"layers.{layer}.1.3.weight"] = linear(hidden, 4 * hidden)
    return state


def save_adapter(path: Path, state: Mapping[str, Mapping[str, Tensor]]) -> Path:
    """Write an adapter as its `.safetensors` file; returns the path."""
    from safetensors.torch import save_file

    save_file({f"{part}.{key}": t.contiguous() for part, tensors in state.items() for key, t in tensors.items()}, path)
    return path


def tiny(adapters: int = 1, seed: int = 0, changes: Mapping[str, Any] | None = None) -> tuple[Any, Adapters]:
    """A tiny UNet with IP-Adapters installed, and their weights."""
    unet = tiny_unet(seed, changes)
    return unet, install(unet, [adapter(unet, seed=number) for number in range(adapters)])


def embeddings(unet: Any, adapters: int = 1, images: int = 1, seed: int = 1) -> tuple[Tensor, list[Tensor]]:
    """Hidden states of the text, (2, 77, cross), and image embeddings, (2, images, dim) per adapter."""
    torch.manual_seed(seed)
    text = torch.randn(2, 77, unet.config.cross_attention_dim)
    return text, [torch.randn(2, images, IMAGE_DIM) for _ in range(adapters)]


def unet_inputs(context: Context, height: int = 16, width: int = 16, seed: int = 2) -> UNetInputs:
    """Inputs of the tiny UNet for a picture of `height` x `width` latent pixels."""
    torch.manual_seed(seed)
    pooled = TINY["projection_class_embeddings_input_dim"] - 6 * TINY["addition_time_embed_dim"]
    time_ids = torch.tensor([[128.0, 128, 0, 0, 128, 128]] * 2)
    sample, added = torch.randn(2, 4, height, width), AddedConditions(torch.randn(2, pooled), time_ids)
    return UNetInputs(sample, torch.tensor(500.0), context, added)


def example(unet: Any, adapters: Adapters, height: int = 16, width: int = 16) -> UNetInputs:
    """Inputs with one image for each adapter."""
    text, images = embeddings(unet, len(adapters.projections))
    return unet_inputs(project(unet, adapters, text, images), height, width)


def residuals(unet: Any, inputs: UNetInputs, seed: int = 3) -> ControlResiduals:
    """Random residuals of a ControlNet for each skip connection of the tiny UNet and for its middle."""
    torch.manual_seed(seed)
    side = inputs.sample.shape[-2:]
    shapes = [(channels, *side) for channels in unet.config.block_out_channels[:1]]
    for block in unet.down_blocks:
        for resnet in block.resnets:
            shapes.append((resnet.conv2.out_channels, *side))
        for downsampler in block.downsamplers or ():
            side = tuple(-(-length // 2) for length in side)
            shapes.append((downsampler.conv.out_channels, *side))
    down = tuple(torch.randn(len(inputs.sample), *shape) for shape in shapes)
    return ControlResiduals(down, torch.randn_like(down[-1]))


def twice(inputs: UNetInputs) -> UNetInputs:
    """The same inputs for two pictures in one call."""
    context, joined = inputs.context, lambda tensor: torch.cat([tensor, tensor])
    text, image = pytree.tree_map(lambda tensor: torch.cat([tensor, tensor], 1), (context.text, context.image))
    context = context._replace(text=text, image=image)
    return replace(inputs, sample=joined(inputs.sample), added=pytree.tree_map(joined, inputs.added), context=context)


def moved(inputs: UNetInputs, dtype: torch.dtype) -> UNetInputs:
    """The same inputs on the GPU; the scale and the timestep stay float32."""
    scale, timestep = inputs.context.scale.cuda(), inputs.timestep.cuda()
    cast: UNetInputs = pytree.tree_map(lambda tensor: tensor.to("cuda", dtype), inputs)
    return replace(cast, timestep=timestep, context=cast.context._replace(scale=scale))


def difference(a: Tensor, b: Tensor) -> float:
    """Relative error of `a` against `b`."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()
