"""A VAE whose decoder would leave the range of fp16, changed to the same function within it."""

from __future__ import annotations

from typing import Any

# A power of two, so that dividing by it is exact. Activations of up to 3e5 have been reported, fp16 ends at 65504.
DIVISOR = 64


def shrink(vae: Any) -> None:
    """Divide everything that grows inside the decoder of a diffusers `AutoencoderKL` by `DIVISOR`, in place.

    What comes out is the same: every sum in the decoder goes through a group norm, which takes the divisor out again
    once its epsilon, a variance, is divided by the square of it. Weights are as exact as before; those below 0.004
    lose bits in fp16, which is less than the rounding of what they are added to.
    """
    decoder = vae.decoder
    _divide(decoder.conv_in)
    for block in (decoder.mid_block, *decoder.up_blocks):
        for resnet in block.resnets:
            for norm in (resnet.norm1, resnet.norm2):
                norm.eps /= DIVISOR**2
            for convolution in (resnet.conv1, resnet.conv2):
                _divide(convolution)
            if resnet.conv_shortcut is not None:
                _divide(resnet.conv_shortcut, weight=False)  # what goes in is already divided
        for attention in filter(None, getattr(block, "attentions", None) or ()):
            attention.group_norm.eps /= DIVISOR**2
            _divide(attention.to_out[0])
        for upsampler in getattr(block, "upsamplers", None) or ():
            _divide(upsampler.conv, weight=False)
    decoder.conv_norm_out.eps /= DIVISOR**2


def _divide(layer: Any, weight: bool = True) -> None:
    for parameter in (layer.weight if weight else None, layer.bias):
        if parameter is not None:
            parameter.data.div_(DIVISOR)
