"""Triton kernels for the first half of a feed-forward network: product, gate, and quantization for the next product.

Imported only where Triton is installed. Each has a plain reference in PyTorch that computes the same in any precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op
from triton.language.extra import libdevice

from ipa_cli.backends.inductor.kernels.launch import launch_tiles, launchable


@triton.jit
def _value_times_gelu(value, gate):
    """value * gelu(gate) in a third of the instructions of erf; gelu is off by 3.2e-6 at most.

    The normal distribution as a logistic function of an odd polynomial: `benchmarks/gelu.py` fits it.
    """
    square = gate * gate
    power = (-3.210386960439404e-06 * square + 8.790992456173333e-05) * square + 0.00036204697561184086
    power = gate * ((power * square - 0.10522997541600822) * square - 2.302043776729112)
    return libdevice.fast_dividef(value * gate, 1.0 + tl.exp2(power))


@triton.jit
def _tile_origin(tile, rows, width, ROWS: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr):
    """Row and column where a tile begins; GROUP tiles lie below each other before the next column's."""
    across, down = tl.cdiv(width, WIDTH), tl.cdiv(rows, ROWS)
    band = tile // (GROUP * across)
    high = tl.minimum(down - band * GROUP, GROUP)
    within = tile % (GROUP * across)
    return (band * GROUP + within % high) * ROWS, (within // high) * WIDTH


@triton.jit
def _value_and_gate(
    states, weight, row, column, TOTAL_DEPTH: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr
):
    """A tile of both halves of the product, values and gates, by one product twice as wide."""
    both = tl.zeros((ROWS, 2 * WIDTH), tl.float32)
    for start in range(0, TOTAL_DEPTH, DEPTH):
        halves = weight.load([0, column, start]).reshape(2 * WIDTH, DEPTH)
        both = tl.dot(states.load([row, start]), halves.T, both)
    return both.reshape(ROWS, 2, WIDTH).permute(0, 2, 1).split()


@triton.jit
def _load(numbers, at, count):
    """float32 of `numbers`, 0 beyond `count`."""
    return tl.load(numbers + at, mask=at < count, other=0.0).to(tl.float32)


@triton.jit
def geglu_kernel(
    states,
    weight,
    bias,
    out,
    rows,
    width,
    TOTAL_DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Tiles of both halves of the product, multiplied before they are written; see `geglu` for the shapes.

    All but the bias are descriptors, of blocks (ROWS, DEPTH), (2, WIDTH, DEPTH) and (ROWS, WIDTH / 2).
    """
    tiles = tl.cdiv(width, WIDTH) * tl.cdiv(rows, ROWS)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        row, column = _tile_origin(tile, rows, width, ROWS, WIDTH, GROUP)
        value, gate = _value_and_gate(states, weight, row, column, TOTAL_DEPTH, ROWS, WIDTH, DEPTH)
        at = column + tl.arange(0, WIDTH)
        value += _load(bias, at, width)[None, :]
        gate += _load(bias + width, at, width)[None, :]
        left, right = _value_times_gelu(value, gate).to(out.dtype).reshape(ROWS, 2, WIDTH // 2).permute(0, 2, 1).split()
        out.store([row, column], left)
        out.store([row, column + WIDTH // 2], right)


@triton.jit
def geglu_pointers_kernel(
    states,
    weight,
    bias,
    out,
    rows,
    width,
    TOTAL_DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """`geglu_kernel` for GPUs without descriptors (TMA): pointers, and a program for each tile."""
    row, column = _tile_origin(tl.program_id(0), rows, width, ROWS, WIDTH, GROUP)
    line, at, deep = row + tl.arange(0, ROWS), column + tl.arange(0, WIDTH), tl.arange(0, DEPTH)
    # Beyond the edges the first rows are read again, which saves masks; they are not stored.
    left = states + (line % rows)[:, None] * TOTAL_DEPTH + deep[None, :]
    upper = weight + (at % width)[None, :] * TOTAL_DEPTH + deep[:, None]
    lower = upper + width * TOTAL_DEPTH
    value = tl.zeros((ROWS, WIDTH), tl.float32)
    gate = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, TOTAL_DEPTH, DEPTH):
        given = tl.load(left + start)
        value = tl.dot(given, tl.load(upper + start), value)
        gate = tl.dot(given, tl.load(lower + start), gate)
    value += _load(bias, at, width)[None, :]
    gate += _load(bias + width, at, width)[None, :]
    product = value * (0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476)))
    there = (line < rows)[:, None] & (at < width)[None, :]
    tl.store(out + line[:, None] * width + at[None, :], product.to(out.dtype.element_ty), there)


@triton.jit
def geglu_quantize_kernel(
    states,
    scale,
    weight,
    weight_scale,
    bias,
    out,
    out_scale,
    rows,
    out_rows,
    width,
    TOTAL_DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """`geglu_kernel` in fp8: each row of a tile is quantized as one block; see `geglu_quantize` for the shapes."""
    tiles = tl.cdiv(width, WIDTH) * tl.cdiv(rows, ROWS)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        row, column = _tile_origin(tile, rows, width, ROWS, WIDTH, GROUP)
        value, gate = _value_and_gate(states, weight, row, column, TOTAL_DEPTH, ROWS, WIDTH, DEPTH)
        line, at = row + tl.arange(0, ROWS), column + tl.arange(0, WIDTH)
        of_row = _load(scale, line, rows)[:, None]
        value = value * (of_row * _load(weight_scale, at, width)[None, :]) + _load(bias, at, width)[None, :]
        gate *= of_row * _load(weight_scale + width, at, width)[None, :]
        gate += _load(bias + width, at, width)[None, :]
        product = _value_times_gelu(value, gate)
        highest = tl.maximum(tl.max(tl.abs(product), 1), 1e-12)
        tl.store(out_scale + (column // WIDTH) * out_rows + line, highest / 448.0, mask=line < out_rows)
        out.store([row, column], (product * (448.0 / highest)[:, None]).to(out.dtype))


@triton.jit
def gate_quantize_kernel(both, out, scale, width, BLOCK: tl.constexpr, PIECES: tl.constexpr):
    """A row of values times gelu(gate) in fp8, and its scale; see `gate_quantize`. A row is PIECES blocks."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    pieces = ()
    largest = tl.zeros((BLOCK,), tl.float32)
    for piece in tl.static_range(PIECES):
        left = both + row * 2 * width + piece * BLOCK + column
        gate = tl.load(left + width).to(tl.float32)
        product = tl.load(left).to(tl.float32) * (0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476)))
        largest = tl.maximum(largest, tl.abs(product))
        pieces = pieces + (product,)  # type: ignore[assignment]  # noqa: RUF005 - Triton knows no unpacking
    highest = tl.maximum(tl.max(largest, 0), 1e-12)
    tl.store(scale + row, highest / 448.0)
    for piece in tl.static_range(PIECES):
        quantized = (pieces[piece] * (448.0 / highest)).to(out.dtype.element_ty)
        tl.store(out + row * width + piece * BLOCK + column, quantized)


@triton_op("ipa::geglu", mutates_args=())
def geglu(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    rows: int = 128,
    width: int = 128,
    depth: int = 64,
    group: int = 16,
    warps: int = 8,
    stages: int = 4,
    descriptors: bool = True,
) -> Tensor:
    """value * gelu(gate) of states x weight + bias, without writing the product.

    states: (rows, depth); weight: (2 * width, depth), values above gates; bias: (2 * width,). Out: (rows, width). All
    contiguous, with rows that begin on 16 bytes. With descriptors (TMA) each multiprocessor takes tiles in turn and
    prefetches the next one; without them `depth` divides the states' depth.
    """
    count, wide = states.shape[0], weight.shape[0] // 2
    out = states.new_empty(count, wide)
    if not descriptors:
        launchable(geglu_pointers_kernel)[(-(-count // rows) * -(-wide // width),)](
            states,
            weight,
            bias,
            out,
            count,
            wide,
            states.shape[1],
            rows,
            width,
            depth,
            group,
            num_warps=warps,
            num_stages=stages,
        )
        return out
    launch_tiles(
        geglu_kernel,
        -(-count // rows) * -(-wide // width),
        {"states": [rows, depth], "weight": [2, width, depth], "out": [rows, width // 2]},
        {
            "states": states,
            "weight": weight.unflatten(0, (2, wide)),
            "bias": bias,
            "out": out,
            "rows": count,
            "width": wide,
            "TOTAL_DEPTH": states.shape[1],
            "ROWS": rows,
            "WIDTH": width,
            "DEPTH": depth,
            "GROUP": group,
        },
        warps,
        stages,
    )
    return out


def plain_geglu(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The reference of `geglu`."""
    return plain_gate(F.linear(states, weight, bias))


@triton_op("ipa::geglu_quantize", mutates_args=())
def geglu_quantize(
    states: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor, group: int = 16, stages: int = 4
) -> tuple[Tensor, Tensor]:
    """`geglu` of rowwise states and weight, quantized in blocks of 128: (rows, width), and scales (width / 128, rows).

    states: (rows, depth) and scale: (rows, 1); weight: (2 * width, depth) and weight_scale: (1, 2 * width); bias:
    (2 * width,). The width is a multiple of 128. The rows are padded to a multiple of 16, which products need; the
    padding may hold anything.
    """
    rows, wide = states.shape[0], weight.shape[0] // 2
    out_rows = -(-rows // 16) * 16
    out, out_scale = states.new_empty(out_rows, wide), scale.new_empty(wide // 128, out_rows)
    launch_tiles(
        geglu_quantize_kernel,
        -(-rows // 128) * (wide // 128),
        {"states": [128, 128], "weight": [2, 128, 128], "out": [128, 128]},
        {
            "states": states,
            "scale": scale,
            "weight": weight.unflatten(0, (2, wide)),
            "weight_scale": weight_scale,
            "bias": bias,
            "out": out,
            "out_scale": out_scale,
            "rows": rows,
            "out_rows": out_rows,
            "width": wide,
            "TOTAL_DEPTH": states.shape[1],
            "ROWS": 128,
            "WIDTH": 128,
            "DEPTH": 128,
            "GROUP": group,
        },
        8,
        stages,
    )
    return out, out_scale


@triton_op("ipa::gate_quantize", mutates_args=())
def gate_quantize(both: Tensor, warps: int = 8) -> tuple[Tensor, Tensor]:
    """value * gelu(gate), quantized rowwise: (rows, width), and scales (rows, 1).

    both: (rows, 2 * width), values before gates, of a width that one thread block can hold, see `blocks`.
    """
    rows, width = both.shape[0], both.shape[1] // 2
    out, scale = both.new_empty(rows, width, dtype=torch.float8_e4m3fn), both.new_empty(rows, 1, dtype=torch.float32)
    block = width & -width
    launchable(gate_quantize_kernel)[(rows,)](both, out, scale, width, block, width // block, num_warps=warps)
    return out, scale


def plain_gate(both: Tensor) -> Tensor:
    """The reference of `gate_quantize`, without quantization."""
    value, gate = both.chunk(2, dim=-1)
    return value * F.gelu(gate)
