"""Group norm for pictures in the channels-last memory format."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class GroupNorm(nn.Module):
    """The same as `norm`, an nn.GroupNorm: sums by channel, which is the fast way in this layout, then by group.

    Takes one or several pictures, concatenated along their channels. torch's own decomposition divides by the size of
    the picture, which takes minutes to compile for a range of sizes, and computes a channel's factor at each pixel.
    """

    def __init__(self, norm: nn.GroupNorm):
        super().__init__()
        self.groups, self.eps, self.weight, self.bias = norm.num_groups, norm.eps, norm.weight, norm.bias

    def forward(self, *pictures: Tensor) -> Tensor:
        widths = [picture.shape[1] for picture in pictures]
        scales, shifts = (x[:, :, None, None].split(widths, 1) for x in self.scale_shift(*pictures))
        each = zip(pictures, scales, shifts, strict=True)
        return cat_channels(*((picture.float() * scale + shift).to(picture.dtype) for picture, scale, shift in each))

    def scale_shift(self, *pictures: Tensor) -> tuple[Tensor, Tensor]:
        """What each channel is multiplied by, and what is added to it then: (B, channels), twice, in float32."""
        moments = [torch.var_mean(picture.float(), (2, 3), correction=0) for picture in pictures]
        variance, mean = (cat_channels(*each).unflatten(1, (self.groups, -1)) for each in zip(*moments, strict=True))
        group = mean.mean(-1, keepdim=True)
        variance = (variance + (mean - group).square()).mean(-1, keepdim=True)  # within channels and between them
        scale = torch.rsqrt(variance + self.eps) * self.weight.float().unflatten(0, (self.groups, -1))
        shift = self.bias.float().unflatten(0, (self.groups, -1)) - group * scale
        return _materialized(scale.flatten(1)), _materialized(shift.flatten(1))


def cat_channels(*pictures: Tensor) -> Tensor:
    """The pictures concatenated along their channels."""
    return torch.cat(pictures, 1) if len(pictures) > 1 else pictures[0]


def _materialized(tensor: Tensor) -> Tensor:
    """The same; torch's compiler writes what is viewed this way to memory, in place of computing it at each use."""
    return tensor.as_strided(tensor.shape, (tensor.shape[1], 1))


def replace_group_norms(module: nn.Module) -> Any:
    """`module` with its group norms replaced by ours, where they have weights."""
    if isinstance(module, nn.GroupNorm) and module.affine:
        return GroupNorm(module)
    for name, child in module.named_children():
        setattr(module, name, replace_group_norms(child))
    return module


def on_meta(module: nn.Module) -> Any:
    """A copy on the meta device, with our group norms."""
    return replace_group_norms(meta_copy(module))


def meta_copy(module: nn.Module) -> Any:
    """A copy on the meta device."""
    memo: dict[int, Any] = {id(w): nn.Parameter(w.to("meta"), requires_grad=False) for w in module.parameters()}
    return copy.deepcopy(module, memo)
