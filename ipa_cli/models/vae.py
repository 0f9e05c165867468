"""An SDXL VAE that decodes fast on a GPU: the same function, in fp16 and with pixels that lie next to each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

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


def channels_last(vae: Any) -> None:
    """Lay the decoder's weights out as a GPU's convolutions want them, with norms that are quick in that layout."""
    for module in list(vae.decoder.modules()):
        for name, child in module.named_children():
            if type(child) is nn.GroupNorm:
                setattr(module, name, GroupNorm.like(child))
            elif isinstance(child, nn.SiLU):
                child.inplace = True  # it follows a norm, whose output nobody else reads
    vae.to(memory_format=torch.channels_last)


class GroupNorm(nn.GroupNorm):
    """torch's own, but for one picture in channels_last on a GPU, where torch's is slow: by the kernels of batch norm.

    Those see each channel by itself, in fp32; what is left is to join the channels of a group.
    """

    @classmethod
    def like(cls, norm: nn.GroupNorm) -> GroupNorm:
        """One with the weights of `norm`."""
        made = cls(norm.num_groups, norm.num_channels, norm.eps, device="meta")
        made.weight, made.bias = norm.weight, norm.bias
        return made.train(norm.training)

    def forward(self, states: Tensor) -> Tensor:
        alone = states.ndim == 4 and len(states) == 1 and states.is_contiguous(memory_format=torch.channels_last)
        if not (alone and states.is_cuda):
            return super().forward(states)
        mean, scale = torch.batch_norm_stats(states, 0.0)
        mean, scale = joined(mean, scale, self.num_groups, self.eps)
        return torch.batch_norm_elemt(states, self.weight.float(), self.bias.float(), mean, scale, self.eps)


def joined(mean: Tensor, scale: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and one over the standard deviation of each channel (of equal size) as those of its group."""
    mean, square = mean.view(groups, -1), (scale**-2).view(groups, -1)
    middle = mean.mean(1, keepdim=True)
    variance = (square + (mean - middle) ** 2).mean(1, keepdim=True)
    each = mean.shape[1]
    return middle.repeat(1, each).view(-1), (variance + eps).rsqrt().repeat(1, each).view(-1)
