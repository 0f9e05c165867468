"""Group norm for pictures whose channels lie last in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class GroupNorm(nn.Module):
    """What `norm`, an nn.GroupNorm, computes: sums channel by channel, which lie side by side, then by groups.

    The usual formula becomes divisions by the size of the picture, which take minutes to compile for a range of sizes.
    """

    def __init__(self, norm: nn.GroupNorm):
        super().__init__()
        self.groups, self.eps, self.weight, self.bias = norm.num_groups, norm.eps, norm.weight, norm.bias

    def forward(self, picture: Tensor) -> Tensor:
        wide = picture.float()
        spread, mean = (x.unflatten(1, (self.groups, -1)) for x in torch.var_mean(wide, (2, 3), correction=0))
        group = mean.mean(-1, keepdim=True)
        spread = (spread + (mean - group).square()).mean(-1, keepdim=True)  # within channels and between them
        slope = torch.rsqrt(spread + self.eps) * self.weight.float().unflatten(0, (self.groups, -1))
        shift = self.bias.float().unflatten(0, (self.groups, -1)) - group * slope
        slope, shift = (x.flatten(1)[:, :, None, None] for x in (slope, shift))
        return (wide * slope + shift).to(picture.dtype)


def by_channel(module: nn.Module) -> Any:
    """`module` with its group norms replaced, where they have weights."""
    if isinstance(module, nn.GroupNorm) and module.affine:
        return GroupNorm(module)
    for name, child in module.named_children():
        setattr(module, name, by_channel(child))
    return module
