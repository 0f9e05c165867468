"""Layers in fp8 (E4M3): weights are quantized once, states in each step; products are summed in float32.

A scale is what quantized values are multiplied by. Rowwise: one scale for each row (per-row scale). Blockwise: one for
each BLOCK values of a row of states, and for each square of BLOCK x BLOCK weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ipa_cli.backends.inductor.tuning import card
from ipa_cli.errors import IpaError

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
BLOCK = 128
SILU_SCALE = 0.25  # of normed states behind SiLU: a fixed scale, with which 0.004 to 112 keep all their bits


class RowwiseStates(NamedTuple):
    """States in fp8, (rows, width), the scale of each row, (rows, 1), and the shape of the states without the width."""

    values: Tensor
    scale: Tensor
    shape: Sequence[int]

    @classmethod
    def of(cls, states: Tensor | RowwiseStates) -> RowwiseStates:
        """States as they are, or quantized."""
        if isinstance(states, RowwiseStates):
            return states
        return cls(*quantize_rowwise(states.flatten(0, -2)), states.shape[:-1])


class BlockwiseStates(NamedTuple):
    """States in fp8, (rows, width), the scale of each block, (width / BLOCK, rows), and their shape without the width.

    There may be more rows than the shape says.
    """

    values: Tensor
    scale: Tensor
    shape: Sequence[int]


class Fp8Linear(nn.Module):
    """A linear layer like `layer`, rowwise; `weight` is (out, in) in fp8, `weight_scale` (1, out)."""

    def __init__(self, layer: nn.Linear, gives_half: bool = True):
        super().__init__()
        shape = (layer.out_features, layer.in_features)
        self.weight = nn.Parameter(torch.empty(shape, dtype=FP8, device="meta"), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty(1, shape[0], device="meta"), requires_grad=False)
        self.bias, self.dtype = layer.bias, layer.weight.dtype
        self.gives_half = gives_half

    def forward(self, states: Tensor | RowwiseStates) -> Tensor:
        states = RowwiseStates.of(states)
        given = states.values, self.weight.t(), states.scale, self.weight_scale
        if self.gives_half:
            out = torch._scaled_mm(*given, bias=self.bias, out_dtype=self.dtype, use_fast_accum=True)
            return out.unflatten(0, states.shape)
        out = torch._scaled_mm(*given, out_dtype=torch.bfloat16, use_fast_accum=True).to(self.dtype)
        return (out if self.bias is None else out + self.bias).unflatten(0, states.shape)


class BlockwiseFp8Linear(nn.Module):
    """A linear layer like `layer`, blockwise; `weight` is (out, in) in fp8, `weight_scale` (out, in) / BLOCK.

    Its products take no bias: who calls it adds `bias`, where another kernel has something to add already.
    """

    def __init__(self, layer: nn.Linear):
        super().__init__()
        out, given = layer.out_features, layer.in_features
        self.weight = nn.Parameter(torch.empty(out, given, dtype=FP8, device="meta"), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty(out // BLOCK, given // BLOCK, device="meta"), requires_grad=False)
        self.bias, self.dtype = layer.bias, layer.weight.dtype

    def forward(self, states: BlockwiseStates) -> Tensor:
        scales = states.scale.t(), self.weight_scale.t()
        out = torch._scaled_mm(states.values, self.weight.t(), *scales, out_dtype=self.dtype)
        return out[: math.prod(states.shape)].unflatten(0, states.shape)


def quantize_rowwise(states: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in fp8 and the scale of each: (rows, width) and (rows, 1)."""
    wide = states.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp(min=1e-12) / FP8_MAX
    return (wide * (1 / scale)).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale


def quantize_blockwise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight in fp8 and the scale of each square of BLOCK x BLOCK: (out, in) and (out / BLOCK, in / BLOCK)."""
    wide = weight.float().unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))
    scale = wide.abs().amax((1, 3), keepdim=True).clamp(min=1e-12) / FP8_MAX
    values = (wide * (1 / scale)).clamp(-FP8_MAX, FP8_MAX).to(FP8)
    return values.reshape(weight.shape), scale.flatten(2).squeeze(1).contiguous()


def quantize_conv(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A 3x3 convolution's weight in fp8, (out, 9 * in), and the scale of its products with quantized states, (out,)."""
    values, scale = quantize_rowwise(weight.permute(0, 2, 3, 1).flatten(1))
    return values, scale.flatten() * SILU_SCALE


def supports_blockwise(device: torch.device) -> bool:
    """Whether blockwise products run on `device`: on Hopper since CUDA 12.9, in a torch that has `scaled_mm`."""
    return hasattr(torch.nn.functional, "scaled_mm") and gives_half(device)


def gives_half(device: torch.device) -> bool:
    """Whether rowwise products on `device` give float16: those of cuBLAS, on Hopper since CUDA 12.9.

    Elsewhere torch takes CUTLASS, which up to torch 2.13 writes bfloat16 where there is no bias, whatever it is asked.
    """
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    since = tuple(int(number) for number in torch.version.cuda.split(".")[:2]) >= (12, 9)
    return since and card(torch.cuda.get_device_capability(device)).hopper


def check_product(device: torch.device) -> None:
    """Try a small rowwise product on `device`. Raises IpaError where this torch has none, or a wrong one."""
    values, scale = quantize_rowwise(torch.ones(32, 32, device=device))
    out_dtype = torch.float16 if gives_half(device) else torch.bfloat16
    try:
        out = torch._scaled_mm(values, values.t(), scale, scale.t(), out_dtype=out_dtype, use_fast_accum=True)
        problem = "" if (out.float() - 32).abs().max() < 1 else "the product of ones is wrong"
    except (RuntimeError, ValueError) as error:
        problem = str(error).strip().splitlines()[0]
    if problem:
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        raise IpaError(
            f"torch {torch.__version__} has no fp8 products by rows for compute capability {capability}: {problem}",
            "leave out --precision fp8, so that the UNet draws in half precision, or install a newer torch",
        )
