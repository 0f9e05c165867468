"""ControlNets for Stable Diffusion 1.5 and SDXL in plain torch, also union models, which take several kinds of maps.

Names and the order of operations are those of diffusers' `ControlNetModel` and `ControlNetUnionModel`. What depends on
the map alone is made once, by `ControlNet.hint`. Source: https://arxiv.org/abs/2302.05543.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipa_cli.unet.inputs import ControlInputs, ControlResiduals
from ipa_cli.unet.model import Encoder, TimestepEmbedding, Timesteps, each_of

# What a configuration means that leaves a field out: `ControlNetModel`'s own defaults beside those of a UNet.
DEFAULTS: Mapping[str, Any] = {
    "conditioning_channels": 3,
    "controlnet_conditioning_channel_order": "rgb",
    "conditioning_embedding_out_channels": (16, 32, 96, 256),
    "global_pool_conditions": False,
}
# Of a `ControlNetUnionModel`: their presence tells one.
UNION: Mapping[str, Any] = {
    "conditioning_embedding_out_channels": (48, 96, 192, 384),
    "num_control_type": 6,
    "num_trans_channel": 320,
    "num_trans_head": 8,
    "num_trans_layer": 1,
    "num_proj_channel": 320,
}


class ConditioningEmbedding(nn.Module):
    """From a map, (B, 3, H, W), to the size and width of the first states, (B, out, H / 8, W / 8)."""

    def __init__(self, given: int, out: int, widths: Sequence[int]):
        super().__init__()
        self.conv_in = nn.Conv2d(given, widths[0], 3, padding=1)
        pairs = itertools.pairwise(widths)
        layers = [[nn.Conv2d(a, a, 3, padding=1), nn.Conv2d(a, b, 3, padding=1, stride=2)] for a, b in pairs]
        self.blocks = nn.ModuleList(layer for pair in layers for layer in pair)
        self.conv_out = nn.Conv2d(widths[-1], out, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        states = F.silu(self.conv_in(picture))
        for block in self.blocks:
            states = F.silu(block(states))
        return self.conv_out(states)


class TaskAttention(nn.Module):
    """Attention of a union model's token, (B, width), to the equal tokens of its batch: the token's own value."""

    def __init__(self, width: int):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, token: Tensor) -> Tensor:
        width = token.shape[-1]
        return self.out_proj(F.linear(token, self.in_proj_weight[2 * width :], self.in_proj_bias[2 * width :]))


class TaskMlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, token: Tensor) -> Tensor:
        states = self.c_fc(token)
        return self.c_proj(states * torch.sigmoid(1.702 * states))


class TaskBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.attn, self.ln_1 = TaskAttention(width), nn.LayerNorm(width)
        self.mlp, self.ln_2 = TaskMlp(width), nn.LayerNorm(width)

    def forward(self, token: Tensor) -> Tensor:
        token = token + self.attn(self.ln_1(token))
        return token + self.mlp(self.ln_2(token))


class ControlNet(Encoder):
    """From noisy latents and what was made of a map to residuals for the UNet."""

    KIND = "controlnet"  # what the keys of its graphs call its configuration

    def __init__(self, config: Mapping[str, Any]):
        self.union = "num_control_type" in config
        super().__init__({**DEFAULTS, **(UNION if self.union else {}), **config})
        config = self.config
        first = config.block_out_channels[0]
        widths = config.conditioning_embedding_out_channels
        self.controlnet_cond_embedding = ConditioningEmbedding(config.conditioning_channels, first, widths)
        if self.union:
            kinds, width, angles = config.num_control_type, config.num_trans_channel, config.addition_time_embed_dim
            self.task_embedding = nn.Parameter(torch.empty(kinds, width))
            self.transformer_layes = nn.ModuleList(TaskBlock(width) for _ in range(config.num_trans_layer))
            self.spatial_ch_projs = nn.Linear(width, config.num_proj_channel)
            self.control_type_proj = Timesteps(angles, config.flip_sin_to_cos, config.freq_shift)
            self.control_add_embedding = TimestepEmbedding(kinds * angles, 4 * first, "silu")
        self.controlnet_down_blocks = nn.ModuleList(nn.Conv2d(width, width, 1) for width in self._skips())
        self.controlnet_mid_block = nn.Conv2d(config.block_out_channels[-1], config.block_out_channels[-1], 1)
        self.mid_block = self._middle()

    def _skips(self) -> list[int]:
        """The width of each skip connection."""
        first, *_ = widths = self.config.block_out_channels
        each = each_of(self.config.layers_per_block, len(widths))
        counts = [layers + 1 for layers in each[:-1]] + each[-1:]  # the last block makes nothing smaller
        return [first, *(width for width, count in zip(widths, counts, strict=True) for _ in range(count))]

    def hint(self, picture: Tensor, kind: int | None = None) -> tuple[Tensor, Tensor | None]:
        """What every step adds of a map, (B, 3, H, W) from 0 to 1: to the first states, and to the time embedding.

        The latter is None but for a union model, for which `kind` is the number of the map's kind. A step of diffusers
        makes both again: neither depends on the latents, since the rows of a batch have the same map.
        """
        if self.config.controlnet_conditioning_channel_order == "bgr":
            picture = picture.flip(1)
        states = self.controlnet_cond_embedding(picture)
        if not self.union:
            return states, None
        token = states.mean(dim=(2, 3)) + self.task_embedding[kind]
        for block in self.transformer_layes:
            token = block(token)
        states = states + self.spatial_ch_projs(token)[:, :, None, None]
        chosen = F.one_hot(torch.tensor(kind, device=picture.device), self.config.num_control_type)
        angles = self.control_type_proj(chosen).reshape(1, -1).to(states.dtype)
        return states, self.control_add_embedding(angles)

    def forward(self, inputs: ControlInputs) -> ControlResiduals:
        """The residuals at the scale of the inputs, whose rows may differ in it."""
        emb = self._embedding(inputs, inputs.kind)
        picture, skips = self._down(self.conv_in(inputs.sample) + inputs.hint, emb, inputs.context)
        if self.mid_block is not None:
            picture = self.mid_block(picture, emb, inputs.context)
        return self.residuals(picture, skips, inputs.scale)

    def residuals(self, picture: Tensor, skips: Sequence[Tensor], scale: Tensor) -> ControlResiduals:
        """The last states and those of the skip connections as residuals; one for all pixels where it pools them."""

        def scaled(states: Tensor) -> Tensor:
            states = (states * scale).to(states.dtype)
            return states.mean(dim=(2, 3), keepdim=True) if self.config.global_pool_conditions else states

        down = (conv(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True))
        return ControlResiduals(tuple(map(scaled, down)), scaled(self.controlnet_mid_block(picture)))
