"""A VAE's decoder whose norms, sums and output are Triton kernels that read and write each picture rarely.

A convolution's bias is added by whoever reads its result, and what a sub-pixel convolution makes is read where it lies.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST = 16  # channels that a matrix product takes at once


class Picture(NamedTuple):
    """Values (B, height, width, channels) to which `bias` is still to be added; see `decoder_norm` for `doubled`."""

    values: Tensor
    moments: Tensor  # of the values without the bias
    bias: Tensor | None = None
    doubled: bool = False


class FusedDecoder(nn.Module):
    """A decoder in channels last (see `models.vae.channels_last`), in half precision on a GPU."""

    def __init__(self, decoder: Any):
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: Tensor) -> Tensor:
        from ipa_cli.backends.inductor.kernels import decoder_norm

        decoder = self.decoder
        picture = _measured(_convolved(_last(latents), decoder.conv_in), decoder.conv_in.bias)
        picture = _resnet(decoder.mid_block.resnets[0], picture)
        for attention in decoder.mid_block.attentions:
            picture = _attended(attention, picture)
        picture = _resnet(decoder.mid_block.resnets[1], picture)
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                picture = _resnet(resnet, picture)
            for upsample in block.upsamplers or ():
                picture = _upsampled(upsample, picture)
        factors, last = _factors(decoder.conv_norm_out, picture), decoder.conv_out
        return decoder_norm.output_convolution(picture.values, factors, last.weight, last.bias)


def supports(decoder: Any) -> bool:
    """Whether our kernels are for this decoder: converted, with SiLU, at most three channels that come out, in float16.

    bfloat16 was not checked on a GPU.
    """
    from ipa_cli.networks.autoencoder import ResnetBlock2D

    blocks = [one for one in decoder.modules() if isinstance(one, ResnetBlock2D)]
    upsamplers = [one for block in decoder.up_blocks for one in block.upsamplers or ()]
    return (
        decoder.conv_in.weight.dtype == torch.float16
        and decoder.conv_out.out_channels <= 3
        and all(isinstance(block.nonlinearity, nn.SiLU) for block in blocks)
        and all(conv.in_channels % LEAST == 0 for block in blocks for conv in (block.conv1, block.conv2))
        and all(hasattr(one, "weight") for one in upsamplers)
        and all(hasattr(one, "attend") for one in decoder.mid_block.attentions)
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

    return Picture(values, decoder_norm.moments(values, doubled), bias, doubled)


def _added(states: Tensor, residual: Tensor, bias: Tensor, doubled: bool) -> Picture:
    """The sum of all three; `doubled` is the residual's."""
    from ipa_cli.backends.inductor.kernels import decoder_norm

    return Picture(*decoder_norm.add_moments(states, residual, bias, doubled))


def _factors(norm: Any, picture: Picture) -> Tensor:
    """What the norm multiplies the channels by and what it adds."""
    from ipa_cli.backends.inductor.kernels import decoder_norm

    width = decoder_norm.picture_shape(picture.values, picture.doubled)[2]
    return decoder_norm.scale_shift(
        picture.moments, width, picture.bias, norm.weight, norm.bias, norm.num_groups, norm.eps
    )


def _normed(norm: Any, picture: Picture, silu: bool = True) -> Tensor:
    """A picture normed, by default with SiLU."""
    from ipa_cli.backends.inductor.kernels import decoder_norm

    return decoder_norm.normed(picture.values, _factors(norm, picture), picture.doubled, silu)


def _resnet(block: Any, picture: Picture) -> Picture:
    states = _measured(_convolved(_normed(block.norm1, picture), block.conv1), block.conv1.bias)
    values, more = _shortcut(block.conv_shortcut, picture)
    bias = block.conv2.bias if more is None else block.conv2.bias.float() + more
    return _added(_convolved(_normed(block.norm2, states), block.conv2), values, bias, picture.doubled)


def _shortcut(conv: Any, picture: Picture) -> tuple[Tensor, Tensor | None]:
    """What a residual block adds last: values, and what is still to be added to them."""
    if conv is None:
        return picture.values, None if picture.bias is None else picture.bias.float()
    weight, bias = conv.weight.flatten(1), conv.bias.float()
    if picture.bias is not None:
        bias = bias + (weight.float() * picture.bias.float()).sum(1)
    parts = picture.values.unflatten(3, (-1, conv.in_channels))
    return F.linear(parts, weight).flatten(3), bias


def _attended(attention: Any, picture: Picture) -> Picture:
    states = _normed(attention.group_norm, picture, silu=False).flatten(1, 2)
    last = attention.to_out[0]
    states = F.linear(attention.attend(states), last.weight).unflatten(1, picture.values.shape[1:3])
    bias = last.bias if picture.bias is None else last.bias.float() + picture.bias
    return _added(states, picture.values, bias, picture.doubled)


def _upsampled(upsample: Any, picture: Picture) -> Picture:
    """A sub-pixel convolution, whose pixels stay where it writes them."""
    values = F.conv2d(picture.values.permute(0, 3, 1, 2), upsample.weight, padding=1)
    return _measured(_last(values), upsample.bias, True)
