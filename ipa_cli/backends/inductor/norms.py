"""Group norm for pictures whose channels lie last in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class GroupNorm(nn.Module):
    """What `norm`, an nn.GroupNorm, computes: sums channel by channel, which lie side by side, then by groups.

    Takes pictures of which one lies behind the other. The usual formula becomes divisions by the size of the picture,
    which take minutes to compile for a range of sizes, and what a channel is multiplied by is computed at each pixel.
    """

    def __init__(self, norm: nn.GroupNorm):
        super().__init__()
        self.groups, self.eps, self.weight, self.bias = norm.num_groups, norm.eps, norm.weight, norm.bias

    def forward(self, *pictures: Tensor) -> Tensor:
        widths = [picture.shape[1] for picture in pictures]
        slopes, shifts = (x[:, :, None, None].split(widths, 1) for x in self.slopes(*pictures))
        each = zip(pictures, slopes, shifts, strict=True)
        return behind(*((picture.float() * slope + shift).to(picture.dtype) for picture, slope, shift in each))

    def slopes(self, *pictures: Tensor) -> tuple[Tensor, Tensor]:
        """What each channel is multiplied by, and what is added to it then: (B, channels), twice, in float32."""
        sums = [torch.var_mean(picture.float(), (2, 3), correction=0) for picture in pictures]
        spread, mean = (behind(*each).unflatten(1, (self.groups, -1)) for each in zip(*sums, strict=True))
        group = mean.mean(-1, keepdim=True)
        spread = (spread + (mean - group).square()).mean(-1, keepdim=True)  # within channels and between them
        slope = torch.rsqrt(spread + self.eps) * self.weight.float().unflatten(0, (self.groups, -1))
        shift = self.bias.float().unflatten(0, (self.groups, -1)) - group * slope
        return _written(slope.flatten(1)), _written(shift.flatten(1))


def behind(*pieces: Tensor) -> Tensor:
    """The pieces, one behind the other by channel."""
    return torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0]


def _written(numbers: Tensor) -> Tensor:
    """The same; torch's compiler writes down what is viewed this way."""
    return numbers.as_strided(numbers.shape, (numbers.shape[1], 1))


def by_channel(module: nn.Module) -> Any:
    """`module` with its group norms replaced, where they have weights."""
    if isinstance(module, nn.GroupNorm) and module.affine:
        return GroupNorm(module)
    for name, child in module.named_children():
        setattr(module, name, by_channel(child))
    return module
