"""The UNet of Stable Diffusion 1.5 and SDXL in plain torch: built in a moment, without diffusers.

Classes, attributes and parameters have the names of diffusers' `UNet2DConditionModel`, so that its weights, LoRAs and
whatever looks for a kind of block fit, and every operation is in its order: the noise is the same to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipa_cli.networks.common import ACTIVATIONS, Config, Downsample2D, Upsample2D
from ipa_cli.unet.inputs import ControlInputs, NoiseAndDeep, UNetInputs

# What a configuration means that leaves a field out: `UNet2DConditionModel`'s own defaults.
DEFAULTS: Mapping[str, Any] = {
    "sample_size": None,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "dropout": 0.0,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "reverse_transformer_layers_per_block": None,
    "attention_head_dim": 8,
    "use_linear_projection": False,
    "resnet_time_scale_shift": "default",
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "projection_class_embeddings_input_dim": None,
}


class Timesteps(nn.Module):
    """Sinusoidal embedding of numbers (B,) as (B, channels), float32."""

    def __init__(self, channels: int, flip_sin_to_cos: bool, freq_shift: float):
        super().__init__()
        self.num_channels, self.flip_sin_to_cos, self.downscale_freq_shift = channels, flip_sin_to_cos, freq_shift

    def forward(self, timesteps: Tensor) -> Tensor:
        half = self.num_channels // 2
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=timesteps.device)
        exponent = exponent / (half - self.downscale_freq_shift)
        angles = timesteps[:, None].float() * torch.exp(exponent)[None, :]
        parts = [torch.sin(angles), torch.cos(angles)]
        embedding = torch.cat(parts[::-1] if self.flip_sin_to_cos else parts, dim=-1)
        return F.pad(embedding, (0, 1, 0, 0)) if self.num_channels % 2 else embedding


class TimestepEmbedding(nn.Module):
    def __init__(self, given: int, width: int, act_fn: str):
        super().__init__()
        self.linear_1 = nn.Linear(given, width)
        self.act = ACTIVATIONS[act_fn]()
        self.linear_2 = nn.Linear(width, width)

    def forward(self, sample: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(sample)))


class ResnetBlock2D(nn.Module):
    """Two normed convolutions around the time's shift, (B, in, h, w) to (B, out, h, w)."""

    def __init__(self, given: int, out: int, time: int, config: Config, scale: float = 1.0):
        super().__init__()
        groups, eps = config.norm_num_groups, config.norm_eps
        self.in_channels, self.out_channels = given, out
        self.time_embedding_norm, self.output_scale_factor = config.resnet_time_scale_shift, scale
        self.norm1 = nn.GroupNorm(groups, given, eps)
        self.conv1 = nn.Conv2d(given, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, 2 * out if self.time_embedding_norm == "scale_shift" else out)
        self.norm2 = nn.GroupNorm(groups, out, eps)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.nonlinearity = ACTIVATIONS[config.act_fn]()
        self.conv_shortcut = nn.Conv2d(given, out, 1) if given != out else None

    def forward(self, picture: Tensor, emb: Tensor) -> Tensor:
        states = self.conv1(self.nonlinearity(self.norm1(picture)))
        emb = self.time_emb_proj(self.nonlinearity(emb))[:, :, None, None]
        if self.time_embedding_norm == "scale_shift":
            scale, shift = torch.chunk(emb, 2, dim=1)
            states = self.norm2(states) * (1 + scale) + shift
        else:
            states = self.norm2(states + emb)
        states = self.conv2(self.nonlinearity(states))
        if self.conv_shortcut is not None:
            picture = self.conv_shortcut(picture)
        return (picture + states) / self.output_scale_factor


class Attention(nn.Module):
    """Projections of one attention; what is done with them is up to `processor`, one of `unet.attention`."""

    def __init__(self, width: int, context: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])
        self.processor: Any = None

    def forward(self, states: Tensor, encoder_hidden_states: Any = None) -> Tensor:
        return self.processor(self, states, encoder_hidden_states=encoder_hidden_states)


class GEGLU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, states: Tensor) -> Tensor:
        states, gate = self.proj(states).chunk(2, dim=-1)
        return states * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, states: Tensor) -> Tensor:
        for module in self.net:
            states = module(states)
        return states


class BasicTransformerBlock(nn.Module):
    def __init__(self, width: int, context: int, heads: int):
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), Attention(width, width, heads)
        self.norm2, self.attn2 = nn.LayerNorm(width), Attention(width, context, heads)
        self.norm3, self.ff = nn.LayerNorm(width), FeedForward(width)

    def forward(self, states: Tensor, context: Any) -> Tensor:
        states = self.attn1(self.norm1(states)) + states
        states = self.attn2(self.norm2(states), encoder_hidden_states=context) + states
        return self.ff(self.norm3(states)) + states


class Transformer2DModel(nn.Module):
    """Transformer blocks over the pixels of a picture."""

    def __init__(self, width: int, heads: int, layers: int, config: Config):
        super().__init__()
        self.linear = config.use_linear_projection
        self.norm = nn.GroupNorm(config.norm_num_groups, width, eps=1e-6)
        self.proj_in: nn.Module = nn.Linear(width, width) if self.linear else nn.Conv2d(width, width, 1)
        context = config.cross_attention_dim
        self.transformer_blocks = nn.ModuleList(BasicTransformerBlock(width, context, heads) for _ in range(layers))
        self.proj_out: nn.Module = nn.Linear(width, width) if self.linear else nn.Conv2d(width, width, 1)

    def forward(self, picture: Tensor, context: Any) -> Tensor:
        batch, width, height, across = picture.shape
        states = self.norm(picture)
        if not self.linear:
            states = self.proj_in(states)
        states = states.permute(0, 2, 3, 1).reshape(batch, height * across, width)
        if self.linear:
            states = self.proj_in(states)
        for block in self.transformer_blocks:
            states = block(states, context)
        if self.linear:
            states = self.proj_out(states)
        states = states.reshape(batch, height, across, width).permute(0, 3, 1, 2).contiguous()
        if not self.linear:
            states = self.proj_out(states)
        return states + picture


class Block(nn.Module):
    """Residual blocks, each followed by a transformer where `layers` gives it a depth."""

    def __init__(self, widths: Sequence[tuple[int, int]], layers: Sequence[int], heads: int, time: int, config: Config):
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock2D(given, out, time, config) for given, out in widths)
        if layers:
            out = widths[0][1]
            self.attentions = nn.ModuleList(Transformer2DModel(out, heads, depth, config) for depth in layers)

    def each(self) -> list[tuple[Any, Any]]:
        """Its residual blocks with their transformers, or None."""
        return list(zip(self.resnets, getattr(self, "attentions", [None] * len(self.resnets)), strict=True))


class DownBlock(Block):
    def __init__(self, *of_a_block: Any, last: bool):
        super().__init__(*of_a_block)
        config, out = of_a_block[-1], of_a_block[0][-1][1]
        self.downsamplers = None if last else nn.ModuleList([Downsample2D(out, config.downsample_padding)])

    def states(self, picture: Tensor, emb: Tensor, context: Any) -> list[Tensor]:
        """Those behind each residual block, before they become smaller."""
        found = []
        for resnet, transformer in self.each():
            picture = resnet(picture, emb)
            picture = picture if transformer is None else transformer(picture, context)
            found.append(picture)
        return found

    def forward(self, picture: Tensor, emb: Tensor, context: Any) -> tuple[Tensor, list[Tensor]]:
        skips = self.states(picture, emb, context)
        picture = skips[-1]
        for smaller in self.downsamplers or ():
            picture = smaller(picture)
            skips.append(picture)
        return picture, skips


class MidBlock(nn.Module):
    def __init__(self, width: int, depth: int | None, heads: int, time: int, config: Config):
        super().__init__()
        count, scale = (1 if depth is None else 2), config.mid_block_scale_factor
        transformers = [] if depth is None else [Transformer2DModel(width, heads, depth, config)]
        self.attentions = nn.ModuleList(transformers)
        self.resnets = nn.ModuleList(ResnetBlock2D(width, width, time, config, scale) for _ in range(count))

    def forward(self, picture: Tensor, emb: Tensor, context: Any) -> Tensor:
        picture = self.resnets[0](picture, emb)
        for transformer, resnet in zip(self.attentions, self.resnets[1:], strict=True):
            picture = resnet(transformer(picture, context), emb)
        return picture


class UpBlock(Block):
    def __init__(self, *of_a_block: Any, last: bool):
        super().__init__(*of_a_block)
        self.upsamplers = None if last else nn.ModuleList([Upsample2D(of_a_block[0][-1][1])])

    def forward(self, picture: Tensor, emb: Tensor, context: Any, skips: list[Tensor]) -> Tensor:
        for resnet, transformer in self.each():
            picture = resnet(torch.cat([picture, skips.pop()], dim=1), emb)
            picture = picture if transformer is None else transformer(picture, context)
        for larger in self.upsamplers or ():
            picture = larger(picture, skips[-1].shape[2:])
        return picture


class Encoder(nn.Module):
    """What a UNet and a ControlNet have in common: the embedding of the time, the way down, the middle.

    `config` holds the fields of a `UNet2DConditionModel` or `ControlNetModel` that `models.configurations` lets
    through.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.config = config = Config({**DEFAULTS, **config})
        widths = list(config.block_out_channels)
        count, time = len(widths), 4 * widths[0]
        heads = each_of(config.attention_head_dim, count)  # diffusers' name for their number
        resnets, depths = each_of(config.layers_per_block, count), each_of(config.transformer_layers_per_block, count)

        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        angles = (config.flip_sin_to_cos, config.freq_shift)
        self.time_proj = Timesteps(widths[0], *angles)
        self.time_embedding = TimestepEmbedding(widths[0], time, config.act_fn)
        if config.addition_embed_type == "text_time":
            self.add_time_proj = Timesteps(config.addition_time_embed_dim, *angles)
            self.add_embedding = TimestepEmbedding(config.projection_class_embeddings_input_dim, time, config.act_fn)

        down, before = [], widths[0]
        for number, (kind, width) in enumerate(zip(config.down_block_types, widths, strict=True)):
            sides = [(before, width)] + [(width, width)] * (resnets[number] - 1)
            layers = each_of(depths[number], resnets[number]) if "CrossAttn" in kind else []
            down.append(DownBlock(sides, layers, heads[number], time, config, last=number == count - 1))
            before = width
        self.down_blocks = nn.ModuleList(down)

    def _middle(self) -> MidBlock | None:
        config = self.config
        if config.mid_block_type is None:
            return None
        widths = list(config.block_out_channels)
        last = each_of(each_of(config.transformer_layers_per_block, len(widths))[-1], 1)[0]
        depth = last if "CrossAttn" in config.mid_block_type else None
        heads = each_of(config.attention_head_dim, len(widths))[-1]
        return MidBlock(widths[-1], depth, heads, 4 * widths[0], config)

    @property
    def dtype(self) -> torch.dtype:
        """That of its weights."""
        return self.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.conv_in.weight.device

    def _embedding(self, inputs: UNetInputs | ControlInputs, kind: Tensor | None = None) -> Tensor:
        """Of the time, of a `kind`, (B, time), and in SDXL of the pooled text and the sizes: (B, time)."""
        sample, added = inputs.sample, inputs.added
        emb = self.time_embedding(self.time_proj(inputs.timestep.expand(len(sample))).to(sample.dtype))
        emb = emb if kind is None else emb + kind
        if self.config.addition_embed_type != "text_time":
            return emb
        if added is None:
            raise ValueError("this network takes added conditions")
        sizes = self.add_time_proj(added.time_ids.flatten()).reshape(len(added.text_embeds), -1)
        return emb + self.add_embedding(torch.cat([added.text_embeds, sizes], dim=-1).to(emb.dtype))

    def _down(self, picture: Tensor, emb: Tensor, context: Any) -> tuple[Tensor, list[Tensor]]:
        """The way down: the last states, and those of every skip connection."""
        skips = [picture]
        for block in self.down_blocks:
            picture, more = block(picture, emb, context)
            skips += more
        return picture, skips


class UNet(Encoder):
    """From noisy latents to the noise in them, (B, in_channels, h, w) to (B, out_channels, h, w)."""

    KIND = "unet"  # what the keys of its graphs call its configuration

    def __init__(self, config: Mapping[str, Any]):
        super().__init__(config)
        config = self.config
        widths = list(config.block_out_channels)
        count, time = len(widths), 4 * widths[0]
        heads = each_of(config.attention_head_dim, count)
        resnets, depths = each_of(config.layers_per_block, count), each_of(config.transformer_layers_per_block, count)
        up_depths = config.reverse_transformer_layers_per_block or depths[::-1]

        up, before = [], widths[-1]
        for number, kind in enumerate(config.up_block_types):
            mirrored = count - 1 - number
            width, below, several = widths[mirrored], widths[max(mirrored - 1, 0)], resnets[mirrored] + 1
            skips = [width] * (several - 1) + [below]
            sides = [((before if first == 0 else width) + skip, width) for first, skip in enumerate(skips)]
            layers = each_of(up_depths[number], several) if "CrossAttn" in kind else []
            up.append(UpBlock(sides, layers, heads[mirrored], time, config, last=number == count - 1))
            before = width
        self.up_blocks = nn.ModuleList(up)

        # After the way up, as in diffusers: IP-Adapters count their layers in this order.
        self.mid_block = self._middle()
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], config.norm_eps)
        self.conv_act = ACTIVATIONS[config.act_fn]()
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, inputs: UNetInputs) -> Tensor | NoiseAndDeep:
        """The noise, and the deep states where they are asked for.

        The context reaches every cross-attention processor as it is.
        """
        sample = 2 * inputs.sample - 1.0 if self.config.center_input_sample else inputs.sample
        emb, control, deep = self._embedding(inputs), inputs.control, inputs.deep
        first, states = self.conv_in(sample), None if deep is None else deep.states
        if states is None:
            picture, skips = self._down(first, emb, inputs.context)
        else:
            block: Any = self.down_blocks[0]
            skips = [first, *block.states(first, emb, inputs.context)]
        if control is not None:
            skips = [skip + residual for skip, residual in zip(skips, control.down, strict=states is None)]
        if states is None:
            if self.mid_block is not None:
                picture = self.mid_block(picture, emb, inputs.context)
            if control is not None:
                picture = picture + control.mid
            for block in self.up_blocks[:-1]:
                picture = block(picture, emb, inputs.context, skips)
            states = picture
        picture = self.up_blocks[-1](states, emb, inputs.context, skips)
        noise = self.conv_out(self.conv_act(self.conv_norm_out(picture)))
        return NoiseAndDeep(noise, states) if deep is not None and deep.states is None else noise


def each_of(value: Any, count: int) -> list[Any]:
    """A field that is one number for all, or one for each."""
    return list(value) if isinstance(value, list | tuple) else [value] * count
