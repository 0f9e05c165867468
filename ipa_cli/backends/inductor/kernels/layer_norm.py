"""A Triton kernel for what lies between a transformer block's products in fp8: sum, layer norm, rowwise quantization.

Imported only where Triton is installed. Its plain reference in PyTorch computes the same in any precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from ipa_cli.backends.inductor.fp8 import FP8
from ipa_cli.backends.inductor.kernels.launch import launchable


@triton.jit
def norm_quantize_kernel(
    first,
    second,
    third,
    weight,
    shift,
    bias,
    values,
    scale,
    total,
    rows,
    eps,
    ADDENDS: tl.constexpr,
    BIASED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PIECES: tl.constexpr,
):
    """ROWS rows, each PIECES blocks; see `norm_quantize`. With as many warps a row's sums need no barrier."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, BLOCK)
    width: tl.constexpr = BLOCK * PIECES
    own, there = row[:, None] * width + column[None, :], (row < rows)[:, None]
    pieces = ()
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for piece in tl.static_range(PIECES):
        at = own + piece * BLOCK
        states = tl.load(first + at, mask=there, other=0.0).to(tl.float32)
        if ADDENDS > 1:
            states += tl.load(second + at, mask=there, other=0.0).to(tl.float32)
        if ADDENDS > 2:
            states += tl.load(third + at, mask=there, other=0.0).to(tl.float32)
        sums += states
        pieces = pieces + (states,)  # type: ignore[assignment]  # noqa: RUF005 - Triton knows no unpacking
    mean = (tl.sum(sums, 1) / width)[:, None]
    squares = tl.zeros((ROWS, BLOCK), tl.float32)
    for piece in tl.static_range(PIECES):
        squares += (pieces[piece] - mean) * (pieces[piece] - mean)
    # Inductor passes a Python number as float64, which Triton does not convert to fp8.
    factor = tl.rsqrt(tl.sum(squares, 1) / width + tl.cast(eps, tl.float32))[:, None]
    normed = ()
    largest = tl.zeros((ROWS, BLOCK), tl.float32)
    for piece in tl.static_range(PIECES):
        of_column = tl.load(weight + piece * BLOCK + column).to(tl.float32)[None, :]
        numbers = (pieces[piece] - mean) * factor * of_column
        numbers += tl.load(shift + piece * BLOCK + column).to(tl.float32)[None, :]
        largest = tl.maximum(largest, tl.abs(numbers))
        normed = normed + (numbers,)  # type: ignore[assignment]  # noqa: RUF005
        states = pieces[piece]
        if BIASED:
            states += tl.load(bias + piece * BLOCK + column).to(tl.float32)[None, :]
        tl.store(total + own + piece * BLOCK, states.to(total.dtype.element_ty), mask=there)
    highest = tl.maximum(tl.max(largest, 1), 1e-12)
    tl.store(scale + row, highest / 448.0, mask=row < rows)
    for piece in tl.static_range(PIECES):
        quantized = (normed[piece] * (448.0 / highest)[:, None]).to(values.dtype.element_ty)
        tl.store(values + own + piece * BLOCK, quantized, mask=there)


@triton_op("ipa::norm_quantize", mutates_args=())
def norm_quantize(
    addends: Sequence[Tensor],
    weight: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    eps: float,
    rows: int = 4,
    warps: int = 4,
) -> tuple[Tensor, Tensor, Tensor]:
    """The layer norm of a sum, quantized rowwise: (rows, width), scales (rows, 1), and the sum plus `bias`.

    addends: up to three, each (rows, width), contiguous, of a width that is few times a power of two; weight, shift:
    (width,), of the norm; bias: (width,), which the norm does not see.
    """
    first, count = addends[0], len(addends)
    wide = first.shape[1]
    values, total = first.new_empty(first.shape, dtype=FP8), torch.empty_like(first)
    scale = first.new_empty(first.shape[0], 1, dtype=torch.float32)
    block = wide & -wide
    launchable(norm_quantize_kernel)[(-(-first.shape[0] // rows),)](
        first,
        addends[min(1, count - 1)],
        addends[count - 1],
        weight,
        shift,
        weight if bias is None else bias,
        values,
        scale,
        total,
        first.shape[0],
        eps,
        count,
        bias is not None,
        rows,
        block,
        wide // block,
        num_warps=warps,
    )
    return values, scale, total


def plain_norm_quantize(
    addends: Sequence[Tensor], weight: Tensor, shift: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """The reference of `norm_quantize`, without quantization: the norm, and the sum plus `bias`."""
    total = sum(addends[1:], addends[0])
    return F.layer_norm(total, total.shape[-1:], weight, shift, eps), total if bias is None else total + bias
