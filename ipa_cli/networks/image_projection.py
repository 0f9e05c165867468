"""How IP-Adapters make tokens of image embeds: modules whose parameters have the names of the adapters' own files.

Every operation is in the order of diffusers' `ImageProjection`, `IPAdapterPlusImageProjection` and
`IPAdapterFullImageProjection`: the tokens are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipa_cli.networks.common import without_weights

TOKENS = 4  # of the base adapters
DEPTH_OF_A_HEAD = 64


class ImageProjection(nn.Module):
    """Base adapters: an embedding (B, dim) to (B, 4, cross)."""

    def __init__(self, dim: int, cross: int):
        super().__init__()
        self.proj, self.norm = nn.Linear(dim, TOKENS * cross), nn.LayerNorm(cross)

    def forward(self, embeds: Tensor) -> Tensor:
        return self.norm(self.proj(embeds.to(self.proj.weight.dtype)).unflatten(-1, (TOKENS, -1)))


class FullImageProjection(nn.Module):
    """Full-face adapters: hidden states (B, sequence, dim) to as many tokens (B, sequence, cross)."""

    def __init__(self, dim: int, cross: int):
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, cross), nn.LayerNorm(cross))

    def forward(self, states: Tensor) -> Tensor:
        return self.proj(states)


class ResamplerAttention(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, states: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm2(latents)
        both = torch.cat([self.norm1(states), latents], dim=-2)
        # Two products, as diffusers has them: one of both rounds otherwise.
        query, key, value = (
            F.linear(given, weight).unflatten(-1, (-1, DEPTH_OF_A_HEAD)).transpose(1, 2)
            for given, weight in ((latents, self.to_q.weight), *((both, half) for half in self.to_kv.weight.chunk(2)))
        )
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    """Plus adapters: hidden states (B, sequence, dim) to a few tokens (B, tokens, cross), by a perceiver."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        super().__init__()
        _, tokens, width = shapes["latents"]
        layers = {name.split(".")[1] for name in shapes if name.startswith("layers.")}
        inner = shapes["layers.0.0.to_q.weight"][0]
        self.latents = nn.Parameter(torch.empty(1, tokens, width))
        self.proj_in = nn.Linear(shapes["proj_in.weight"][1], width)
        self.proj_out = nn.Linear(width, shapes["proj_out.weight"][0])
        self.norm_out = nn.LayerNorm(shapes["proj_out.weight"][0])
        self.layers: Any = nn.ModuleList(
            nn.ModuleList(
                [
                    ResamplerAttention(width, inner),
                    nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, 4 * width, bias=False),
                        nn.GELU(),
                        nn.Linear(4 * width, width, bias=False),
                    ),
                ]
            )
            for _ in layers
        )

    def forward(self, states: Tensor) -> Tensor:
        latents = self.latents.repeat(len(states), 1, 1)
        states = self.proj_in(states)
        for layer in self.layers:
            latents = layer[0](states, latents) + latents
            latents = layer[1](latents) + latents
        return self.norm_out(self.proj_out(latents))


def of_file(tensors: Mapping[str, Tensor]) -> nn.Module:
    """The projection of an adapter's file, its `image_proj` tensors assigned."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    with without_weights():
        if "proj.weight" in shapes:
            module: nn.Module = ImageProjection(shapes["proj.weight"][1], shapes["norm.weight"][0])
        elif "proj.3.weight" in shapes:
            module = FullImageProjection(shapes["proj.0.weight"][1], shapes["proj.3.weight"][0])
        else:
            module = Resampler(shapes)
    module.load_state_dict(dict(tensors), assign=True)
    return module
