"""The VAE of Stable Diffusion in plain torch: pictures to latents and back, built in a moment without diffusers.

Classes, attributes and parameters have the names of diffusers' `AutoencoderKL`, and every operation is in its order:
pixels and latents are the same to the bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipa_cli.networks.common import ACTIVATIONS, Config, Downsample2D, Upsample2D

# What a configuration means that leaves a field out: `AutoencoderKL`'s own defaults.
DEFAULTS: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "latents_mean": None,
    "latents_std": None,
    "force_upcast": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
OVERLAP = 0.25  # of tiles, on each side
EPS = 1e-6


class ResnetBlock2D(nn.Module):
    """Two normed convolutions, (B, in, h, w) to (B, out, h, w)."""

    def __init__(self, given: int, out: int, config: Config):
        super().__init__()
        self.norm1 = nn.GroupNorm(config.norm_num_groups, given, EPS)
        self.conv1 = nn.Conv2d(given, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(config.norm_num_groups, out, EPS)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.nonlinearity = ACTIVATIONS[config.act_fn]()
        self.conv_shortcut = nn.Conv2d(given, out, 1) if given != out else None

    def forward(self, picture: Tensor) -> Tensor:
        states = self.conv1(self.nonlinearity(self.norm1(picture)))
        states = self.conv2(self.nonlinearity(self.norm2(states)))
        return (picture if self.conv_shortcut is None else self.conv_shortcut(picture)) + states


class Attention(nn.Module):
    """One head over all pixels."""

    def __init__(self, width: int, config: Config):
        super().__init__()
        self.group_norm = nn.GroupNorm(config.norm_num_groups, width, EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])

    def forward(self, picture: Tensor) -> Tensor:
        batch, width, height, across = picture.shape
        states = self.group_norm(picture.view(batch, width, height * across)).transpose(1, 2)
        query, key, value = (to(states)[:, None] for to in (self.to_q, self.to_k, self.to_v))
        states = self.to_out[0](F.scaled_dot_product_attention(query, key, value)[:, 0])
        return states.transpose(-1, -2).reshape(batch, width, height, across) + picture


class MidBlock(nn.Module):
    def __init__(self, width: int, config: Config):
        super().__init__()
        self.attentions = nn.ModuleList([Attention(width, config)] if config.mid_block_add_attention else [])
        self.resnets = nn.ModuleList(ResnetBlock2D(width, width, config) for _ in range(2))

    def forward(self, picture: Tensor) -> Tensor:
        picture = self.resnets[0](picture)
        for attention in self.attentions:
            picture = attention(picture)
        return self.resnets[1](picture)


class Block(nn.Module):
    def __init__(self, widths: Sequence[int], config: Config, **resampler: nn.Module | None):
        super().__init__()
        pairs = itertools.pairwise(widths)
        self.resnets = nn.ModuleList(ResnetBlock2D(given, out, config) for given, out in pairs)
        for name, module in resampler.items():
            setattr(self, name, None if module is None else nn.ModuleList([module]))
        self.resampler = next(iter(resampler))

    def forward(self, picture: Tensor) -> Tensor:
        for resnet in self.resnets:
            picture = resnet(picture)
        for module in getattr(self, self.resampler) or ():
            picture = module(picture)
        return picture


class Encoder(nn.Module):
    """(B, 3, 8h, 8w) to the mean and logarithmic variance of latents, (B, 2 * latent channels, h, w)."""

    def __init__(self, config: Config):
        super().__init__()
        widths = list(config.block_out_channels)
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        blocks, before = [], widths[0]
        for number, width in enumerate(widths):
            last = number == len(widths) - 1
            sides = [before, *[width] * config.layers_per_block]
            blocks.append(Block(sides, config, downsamplers=None if last else Downsample2D(width, padding=0)))
            before = width
        self.down_blocks = nn.ModuleList(blocks)
        self.mid_block = MidBlock(before, config)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, before, EPS)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(before, 2 * config.latent_channels, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        states = self.conv_in(picture)
        for block in self.down_blocks:
            states = block(states)
        return self.conv_out(self.conv_act(self.conv_norm_out(self.mid_block(states))))


class Decoder(nn.Module):
    """Latents (B, latent channels, h, w) to pixels (B, 3, 8h, 8w), about -1 to 1."""

    def __init__(self, config: Config):
        super().__init__()
        widths = list(config.block_out_channels)[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], config)
        blocks, before = [], widths[0]
        for number, width in enumerate(widths):
            last = number == len(widths) - 1
            sides = [before, *[width] * (config.layers_per_block + 1)]
            blocks.append(Block(sides, config, upsamplers=None if last else Upsample2D(width)))
            before = width
        self.up_blocks = nn.ModuleList(blocks)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, before, EPS)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(before, config.out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        states = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            states = block(states)
        return self.conv_out(self.conv_act(self.conv_norm_out(states)))


class AutoencoderKL(nn.Module):
    """`tiling` takes a large picture in overlapping pieces of the size it was trained at, for little memory."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.config = config = Config({**DEFAULTS, **config})
        channels = config.latent_channels
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if config.use_post_quant_conv else None
        self.tiling = False

    @property
    def dtype(self) -> torch.dtype:
        """That of its weights."""
        return self.decoder.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.decoder.conv_in.weight.device

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of pixels from -1 to 1."""
        tile = self._tile * self._factor

        def encode(piece: Tensor) -> Tensor:
            states = self.encoder(piece)
            return states if self.quant_conv is None else self.quant_conv(states)

        tiled = self.tiling and max(pixels.shape[2:]) > tile
        moments = _tiled(encode, pixels, tile, self._tile) if tiled else encode(pixels)
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of latents that are no longer scaled."""

        def decode(piece: Tensor) -> Tensor:
            return self.decoder(piece if self.post_quant_conv is None else self.post_quant_conv(piece))

        if self.tiling and max(latents.shape[2:]) > self._tile:
            return _tiled(decode, latents, self._tile, self._tile * self._factor)
        return decode(latents)

    @property
    def _factor(self) -> int:
        return 2 ** (len(self.config.block_out_channels) - 1)

    @property
    def _tile(self) -> int:
        """Side of a tile in latents: a multiple of 4, so that its overlaps are whole latents and the pieces join."""
        return max(4, self.config.sample_size // self._factor // 4 * 4)


def _tiled(run: Callable[[Tensor], Tensor], whole: Tensor, tile: int, tile_out: int) -> Tensor:
    """`run` over overlapping squares of `tile`, what comes out blended from one into the next.

    As `tiled_decode` of diffusers' `AutoencoderKL`.
    """
    step, blend = int(tile * (1 - OVERLAP)), int(tile_out * OVERLAP)
    above: list[Tensor] = []
    rows = []
    for top in range(0, whole.shape[2], step):
        row: list[Tensor] = []
        for left in range(0, whole.shape[3], step):
            piece = run(whole[:, :, top : top + tile, left : left + tile])
            if above:
                _blend(above[len(row)], piece, blend, 2)
            if row:
                _blend(row[-1], piece, blend, 3)
            row.append(piece)
        above = row
        rows.append(torch.cat([piece[:, :, : tile_out - blend, : tile_out - blend] for piece in row], dim=3))
    return torch.cat(rows, dim=2)


def _blend(before: Tensor, piece: Tensor, extent: int, dim: int) -> None:
    """Let the end of `before` fade into the beginning of `piece`, in place."""
    extent = min(before.shape[dim], piece.shape[dim], extent)
    shape = [1] * piece.ndim
    shape[dim] = extent
    there = (torch.arange(extent, device=piece.device, dtype=torch.float64) / extent).view(shape)
    end, start = before.narrow(dim, before.shape[dim] - extent, extent), piece.narrow(dim, 0, extent)
    start.copy_(end * (1 - there).to(end.dtype) + start * there.to(start.dtype))
