"""A VAE's decoder whose norms, sums and output are Triton kernels that read and write each picture rarely.

A convolution's bias is added by whoever reads its result, and what a sub-pixel convolution makes is read where it lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipa_cli.backends.inductor.tuning import HalfConv

# A doubled residual is read without descriptors, which takes more shared memory.
DOUBLED_TILE = HalfConv(128, 128, 8, 4)


class Picture(NamedTuple):
    """Values (B, height, width, channels) to which `bias` is still to be added; see `decoder_norm` for `doubled`."""

    values: Tensor
    moments: Tensor  # of the values without the bias
    part: int  # the pixels of a part of the moments
    bias: Tensor | None = None
    doubled: bool = False


class FusedDecoder(nn.Module):
    """A decoder in channels last (see `models.vae.channels_last`), in half precision on a GPU.

    tiles: those of our own convolution, by the channels that come out, where it is taken in place of cuDNN's.
    """

    def __init__(self, decoder: Any, tiles: Mapping[int, HalfConv]):
        super().__init__()
        self.decoder, self.tiles = decoder, tiles

    def forward(self, latents: Tensor) -> Tensor:
        decoder = self.decoder
        picture = _measured(_convolved(_last(latents), decoder.conv_in), decoder.conv_in.bias)
        picture = self._resnet(decoder.mid_block.resnets[0], picture)
        for attention in decoder.mid_block.attentions:
            picture = _attended(attention, picture)
        picture = self._resnet(decoder.mid_block.resnets[1], picture)
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                picture = self._resnet(resnet, picture)
            for upsample in block.upsamplers or ():
                picture = self.upsampled(upsample, picture)
        return self.output(picture)

    def upsampled(self, upsample: Any, picture: Picture) -> Picture:
        """A sub-pixel convolution, whose pixels stay where it writes them."""
        values = F.conv2d(picture.values.permute(0, 3, 1, 2), upsample.weight, padding=1)
        return _measured(_last(values), upsample.bias, True)

    def output(self, picture: Picture) -> Tensor:
        """The last norm, SiLU and convolution."""
        from ipa_cli.backends.inductor.kernels import decoder_norm

        factors, conv = _factors(self.decoder.conv_norm_out, picture), self.decoder.conv_out
        return decoder_norm.output_convolution(picture.values, factors, conv.weight, conv.bias)

    def _resnet(self, block: Any, picture: Picture) -> Picture:
        states = self._convolved(block.norm1, block.conv1, picture)
        return self._convolved(block.norm2, block.conv2, states, _shortcut(block.conv_shortcut, picture))

    def _convolved(
        self, norm: Any, conv: Any, picture: Picture, residual: tuple[Tensor, Tensor | None, bool] | None = None
    ) -> Picture:
        """Norm, SiLU and convolution, and the sum with a residual: values, bias, and whether it is doubled."""
        from ipa_cli.backends.inductor.kernels import decoder_norm, half_convolution

        width = decoder_norm.picture_shape(picture.values, picture.doubled)[2]
        tile = self.tiles.get(conv.out_channels)
        values, more, doubled = residual or (None, None, False)
        tile = DOUBLED_TILE if tile and doubled else tile
        bias = conv.bias if more is None else conv.bias.float() + more
        if tile is None or not half_convolution.fits(width, conv.in_channels, conv.out_channels, *tile[:2]):
            states = _convolved(normed(norm, picture), conv)
            if values is None:
                return _measured(states, bias)
            values, moments = decoder_norm.add_moments(states, values, bias, doubled)
            return Picture(values, moments, width)
        lines = normed(norm, picture, edge=1)
        weight = _last(conv.weight)
        values, moments = half_convolution.half_conv3x3(lines, weight, bias, values, doubled, *tile)
        return Picture(values, moments, tile.pixels)


def supports(decoder: Any) -> bool:
    """Whether our kernels are for this decoder: half precision, SiLU, few channels that come out, converted."""
    from ipa_cli.networks.autoencoder import ResnetBlock2D

    weight, blocks = decoder.conv_in.weight, [one for one in decoder.modules() if isinstance(one, ResnetBlock2D)]
    return (
        weight.is_cuda
        and weight.dtype in (torch.float16, torch.bfloat16)
        and decoder.conv_out.out_channels <= 3
        and all(isinstance(block.nonlinearity, nn.SiLU) for block in blocks)
        and all(conv.in_channels % 16 == 0 for block in blocks for conv in (block.conv1, block.conv2))
        and all(hasattr(one, "weight") for block in decoder.up_blocks for one in block.upsamplers or ())
    )


def _last(picture: Tensor) -> Tensor:
    """(B, channels, height, width) as (B, height, width, channels), contiguous."""
    return picture.permute(0, 2, 3, 1).contiguous()


def _convolved(states: Tensor, conv: Any) -> Tensor:
    """A convolution without its bias."""
    return _last(F.conv2d(states.permute(0, 3, 1, 2), conv.weight, padding=conv.padding))


def _measured(values: Tensor, bias: Tensor | None, doubled: bool = False) -> Picture:
    """A picture with its moments, which take a pass of their own."""
    from ipa_cli.backends.inductor.kernels import decoder_norm

    width = decoder_norm.picture_shape(values, doubled)[2]
    return Picture(values, decoder_norm.moments(values, doubled), width, bias, doubled)


def _factors(norm: Any, picture: Picture) -> Tensor:
    """What the norm multiplies the channels by and what it adds."""
    from ipa_cli.backends.inductor.kernels import decoder_norm

    return decoder_norm.scale_shift(
        picture.moments, picture.part, picture.bias, norm.weight, norm.bias, norm.num_groups, norm.eps
    )


def normed(norm: Any, picture: Picture, silu: bool = True, edge: int = 0) -> Tensor:
    """A picture normed, with SiLU unless told otherwise, and an edge of zeros."""
    from ipa_cli.backends.inductor.kernels import decoder_norm

    return decoder_norm.normed(picture.values, _factors(norm, picture), picture.doubled, silu, edge)


def _shortcut(conv: Any, picture: Picture) -> tuple[Tensor, Tensor | None, bool]:
    """What a residual block adds last: values, what is to be added to them, and whether they are doubled."""
    if conv is None:
        return picture.values, None if picture.bias is None else picture.bias.float(), picture.doubled
    weight, bias = conv.weight.flatten(1), conv.bias.float()
    if picture.bias is not None:
        bias = bias + (weight.float() * picture.bias.float()).sum(1)
    parts = picture.values.unflatten(3, (-1, conv.in_channels))
    return F.linear(parts, weight).flatten(3), bias, picture.doubled


def _attended(attention: Any, picture: Picture) -> Picture:
    from ipa_cli.backends.inductor.kernels import decoder_norm

    states = normed(attention.group_norm, picture, silu=False).flatten(1, 2)
    last = attention.to_out[0]
    states = F.linear(attention.attend(states), last.weight).unflatten(1, picture.values.shape[1:3])
    bias = last.bias if picture.bias is None else last.bias.float() + picture.bias
    values, moments = decoder_norm.add_moments(states, picture.values, bias, picture.doubled)
    return Picture(values, moments, states.shape[2])
