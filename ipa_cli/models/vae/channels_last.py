"""A VAE in the layout that a GPU's convolutions are fast in, channels last."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipa_cli.networks import autoencoder
from ipa_cli.networks.common import Upsample2D, subpixel

ROWS = 4096  # of attention that are computed at once: 128 MiB of scores for 16,384 pixels


def convert(vae: Any) -> None:
    """Give both halves the layout that a GPU's convolutions want, and what is quick in that layout or on a GPU."""
    replace(vae.encoder)
    replace(vae.decoder)
    vae.to(memory_format=torch.channels_last)


def replace(part: nn.Module) -> None:
    """Put modules that are quick in channels last, or on a GPU, in the place of others in an encoder or decoder."""
    for module in list(part.modules()):
        for name, child in module.named_children():
            if type(child) is nn.GroupNorm:
                setattr(module, name, GroupNorm.like(child))
            elif isinstance(child, nn.SiLU):
                child.inplace = True  # it follows a norm, whose output nobody else reads
            elif type(child) is Upsample2D:
                module.set_submodule(name, SubpixelUpsample(child))
            elif type(child) is autoencoder.Attention:
                child.__class__ = RowwiseAttention


class RowwiseAttention(autoencoder.Attention):
    """A VAE's attention as products: no fused kernel of torch's is fast for a head of 512 channels."""

    def forward(self, picture: Tensor) -> Tensor:
        states = self.attend(self.group_norm(picture).permute(0, 2, 3, 1).flatten(1, 2))
        return self.to_out[0](states).unflatten(1, picture.shape[2:]).permute(0, 3, 1, 2) + picture

    def attend(self, states: Tensor) -> Tensor:
        """Attention of pixels that are normed, (B, pixels, width), before the last product."""
        query, key, value = self.to_q(states), self.to_k(states).transpose(1, 2), self.to_v(states)
        scale = query.shape[-1] ** -0.5
        parts = []
        for rows in query.split(ROWS, 1):
            nothing = rows.new_empty(len(rows), rows.shape[1], key.shape[2])
            scores = torch.baddbmm(nothing, rows, key, beta=0, alpha=scale)  # scaled before it is rounded
            parts.append(torch.bmm(scores.softmax(-1), value))
        return torch.cat(parts, 1)


class SubpixelUpsample(nn.Module):
    """Doubling a picture and convolving it, as two convolutions of the small one by 2x2: see `subpixel`.

    One is for the even rows, one for the odd. Each makes both columns of a pixel as channels, which in channels last
    lie in memory as columns do, once the odd column, that of the next pixel, comes first.
    """

    def __init__(self, upsample: Upsample2D):
        super().__init__()
        even, odd = subpixel(upsample.conv.weight.detach()).chunk(2)
        swapped = [torch.cat(rows.chunk(2)[::-1]) for rows in (even, odd)]
        self.weight = nn.Parameter(torch.cat(swapped), requires_grad=False)
        assert upsample.conv.bias is not None
        self.bias: Tensor = upsample.conv.bias

    def forward(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[2:]
        bias = torch.cat([self.bias, self.bias])
        lines = []
        for row, weight in enumerate(self.weight.chunk(2)):
            pixels = F.conv2d(picture, weight, bias, padding=1).permute(0, 2, 3, 1)
            columns = pixels.unflatten(3, (2, -1)).flatten(2, 3)
            lines.append(columns[:, row : row + height, 1 : 1 + 2 * width])
        return torch.stack(lines, 2).flatten(1, 2).permute(0, 3, 1, 2)


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
