"""A VAE's decoder in the layout that a GPU's convolutions are fast in, channels last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def convert(vae: Any) -> None:
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
        mean, scale = of_groups(mean, scale, self.num_groups, self.eps)
        return torch.batch_norm_elemt(states, self.weight.float(), self.bias.float(), mean, scale, self.eps)


def of_groups(mean: Tensor, scale: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and one over the standard deviation of each channel (of equal size) as those of its group."""
    mean, square = mean.view(groups, -1), (scale**-2).view(groups, -1)
    middle = mean.mean(1, keepdim=True)
    variance = (square + (mean - middle) ** 2).mean(1, keepdim=True)
    each = mean.shape[1]
    return middle.repeat(1, each).view(-1), (variance + eps).rsqrt().repeat(1, each).view(-1)
