"""What the networks share: configurations with attributes, activations, and the convolutions that resize."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {"silu": nn.SiLU, "swish": nn.SiLU, "mish": nn.Mish, "gelu": nn.GELU, "relu": nn.ReLU}


@contextmanager
def without_weights() -> Iterator[None]:
    """Make modules whose weights are still to come: on torch's device "meta", without initial values.

    Those cost seconds even there: torch imports its compiler for them.
    """
    kinds: tuple[Any, ...] = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
    before = [kind.reset_parameters for kind in kinds]
    for kind in kinds:
        kind.reset_parameters = _nothing
    try:
        with torch.device("meta"):
            yield
    finally:
        for kind, method in zip(kinds, before, strict=True):
            kind.reset_parameters = method


def _nothing(module: nn.Module) -> None:
    pass


class Config(dict):
    """A configuration whose fields are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Downsample2D(nn.Module):
    def __init__(self, channels: int, padding: int):
        super().__init__()
        self.channels, self.padding = channels, padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, picture: Tensor) -> Tensor:
        return self.conv(picture if self.padding else F.pad(picture, (0, 1, 0, 1)))


class Upsample2D(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, picture: Tensor, size: Sequence[int] | None = None) -> Tensor:
        if picture.shape[0] >= 64 or 4 * picture.numel() > 2**31:  # torch's kernel for channels last fails there
            picture = picture.contiguous()
        if size is None:
            return self.conv(F.interpolate(picture, scale_factor=2.0, mode="nearest"))
        return self.conv(F.interpolate(picture, size=tuple(size), mode="nearest"))


def subpixel(weight: Tensor) -> Tensor:
    """The weight of a sub-pixel convolution: the same as doubling a picture (nearest) and convolving it by `weight`.

    weight: (out, in, 3, 3); the result: (4 * out, in, 2, 2), by row and column of the pixel.
    """

    def halves(wide: Tensor, dim: int) -> list[Tensor]:
        first, middle, last = wide.unbind(dim)
        return [torch.stack([first, middle + last], dim), torch.stack([first + middle, last], dim)]

    phases = [both for rows in halves(weight.float(), 2) for both in halves(rows, 3)]
    return torch.cat(phases).to(weight.dtype).contiguous(memory_format=torch.channels_last)
