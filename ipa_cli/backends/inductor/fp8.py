"""Layers in fp8: weights quantised once, states in each step, sums in half precision or better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

EIGHT = torch.float8_e4m3fn
LARGEST = 448.0  # of its numbers
BLOCK = 128  # numbers that are multiplied by one, where rows are too long for that
GRAIN = 0.25  # by which pictures are to be multiplied that come from a norm, so that 0.004 to 112 keep their digits


class Rows(NamedTuple):
    """States in fp8, (rows, width), what each row is to be multiplied by, (rows, 1), and how they are arranged."""

    numbers: Tensor
    size: Tensor
    shape: Sequence[int]


class Blocks(NamedTuple):
    """States in fp8, (rows, width), what each block is to be multiplied by, (width / BLOCK, rows), and their shape.

    There may be more rows than the shape tells.
    """

    numbers: Tensor
    size: Tensor
    shape: Sequence[int]


class EightBitLinear(nn.Module):
    """A linear layer like `layer`; `weight` is (out, in) in fp8, `size` (1, out) what its rows are multiplied by."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        shape = (layer.out_features, layer.in_features)
        self.weight = nn.Parameter(torch.empty(shape, dtype=EIGHT, device="meta"), requires_grad=False)
        self.size = nn.Parameter(torch.empty(1, shape[0], device="meta"), requires_grad=False)
        self.bias, self.dtype = layer.bias, layer.weight.dtype

    def forward(self, states: Tensor | Rows) -> Tensor:
        if isinstance(states, Tensor):
            states = Rows(*quantised(states.flatten(0, -2)), states.shape[:-1])
        out = torch._scaled_mm(
            states.numbers,
            self.weight.t(),
            states.size,
            self.size,
            bias=self.bias,
            out_dtype=self.dtype,
            use_fast_accum=True,
        )
        return out.unflatten(0, states.shape)


class BlockLinear(nn.Module):
    """A linear layer like `layer`; `weight` is (out, in) in fp8, `size` what its squares of BLOCK are multiplied by."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        out, given = layer.out_features, layer.in_features
        self.weight = nn.Parameter(torch.empty(out, given, dtype=EIGHT, device="meta"), requires_grad=False)
        self.size = nn.Parameter(torch.empty(out // BLOCK, given // BLOCK, device="meta"), requires_grad=False)
        self.bias, self.dtype = layer.bias, layer.weight.dtype

    def forward(self, states: Blocks) -> Tensor:
        out = torch._scaled_mm(states.numbers, self.weight.t(), states.size.t(), self.size.t(), out_dtype=self.dtype)
        out = out[: math.prod(states.shape)].unflatten(0, states.shape)
        return out if self.bias is None else out + self.bias


def quantised(states: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in fp8, and what each is to be multiplied by: (rows, width) and (rows, 1)."""
    wide = states.float()
    size = wide.abs().amax(-1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (wide * (1 / size)).clamp(-LARGEST, LARGEST).to(EIGHT), size


def quantised_by_squares(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight in fp8, and what each square of BLOCK is to be multiplied by: (out, in) and (out, in) / BLOCK."""
    wide = weight.float().unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))
    size = wide.abs().amax((1, 3), keepdim=True).clamp(min=1e-12) / LARGEST
    numbers = (wide * (1 / size)).clamp(-LARGEST, LARGEST).to(EIGHT)
    return numbers.reshape(weight.shape), size.flatten(2).squeeze(1).contiguous()


def quantised_taps(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A convolution's weight in fp8, (out, places * in), and what products with it are multiplied by: (out,)."""
    numbers, size = quantised(weight.permute(0, 2, 3, 1).flatten(1))
    return numbers, size.flatten() * GRAIN


def multiplies_blocks(device: torch.device) -> bool:
    """Whether products of blocks run on `device`: on Hopper since CUDA 12.9, in a torch that has `scaled_mm`."""
    if not hasattr(torch.nn.functional, "scaled_mm") or device.type != "cuda" or torch.version.cuda is None:
        return False
    since = tuple(int(number) for number in torch.version.cuda.split(".")[:2]) >= (12, 9)
    return since and torch.cuda.get_device_capability(device) == (9, 0)
