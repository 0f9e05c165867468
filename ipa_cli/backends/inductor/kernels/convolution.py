"""Triton kernels for the convolutions of residual blocks in fp8: norm, SiLU and im2col, and the convolution.

Imported only where Triton is installed. Each has a plain reference in PyTorch that computes the same in any precision.

The convolution is a matrix product of rows that hold a pixel and its left and right neighbors: im2col along the width.
Rows of pixels are read through descriptors of two dimensions, which the GPU reads much faster than boxes of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from ipa_cli.backends.inductor.fp8 import FP8, FP8_MAX, SILU_SCALE
from ipa_cli.backends.inductor.kernels.launch import launch_tiles, launchable, multiprocessors

# Tiles: pixels, channels, stages, and the relative time of each for its size, as measured on an H100.
TILES = ((128, 256, 3, 0.34), (256, 128, 3, 0.35), (128, 128, 4, 0.41))


@triton.jit
def silu_im2col_kernel(
    first,
    second,
    scale,
    shift,
    out,
    height,
    width,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    INVERSE_SCALE: tl.constexpr,
    FP8_MAX: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A few pixels of a line, some of their channels, written three times; see `silu_im2col` for the shapes."""
    line = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    channels: tl.constexpr = FIRST + SECOND
    which, row = line // (height + 2), line % (height + 2) - 1
    there = (pixel < width)[:, None] & (channel < channels)[None, :]
    given = there & (row >= 0) & (row < height)
    at = ((which * height + row) * width + pixel)[:, None]
    numbers = tl.load(first + at * FIRST + channel, mask=given & (channel < FIRST)[None, :], other=0.0).to(tl.float32)
    if SECOND:
        mask = given & (channel >= FIRST)[None, :]
        numbers += tl.load(second + at * SECOND + (channel - FIRST), mask=mask, other=0.0).to(tl.float32)
    of_channel = which * channels + channel
    factor = tl.load(scale + of_channel, mask=channel < channels, other=0.0)
    numbers = numbers * factor + tl.load(shift + of_channel, mask=channel < channels, other=0.0)
    numbers = numbers * tl.sigmoid(numbers) * INVERSE_SCALE
    numbers = tl.where(given, tl.minimum(tl.maximum(numbers, -FP8_MAX), FP8_MAX), 0.0)
    own = out + line * width * 3 * channels + channel
    right, left = ((pixel + 1) % width)[:, None], ((pixel + width - 1) % width)[:, None]
    after = tl.where((pixel == width - 1)[:, None], 0.0, numbers)
    before = tl.where((pixel == 0)[:, None], 0.0, numbers)
    tl.store(own + right * (3 * channels), after.to(out.dtype.element_ty), mask=there)
    tl.store(own + pixel[:, None] * (3 * channels) + channels, numbers.to(out.dtype.element_ty), mask=there)
    tl.store(own + left * (3 * channels) + 2 * channels, before.to(out.dtype.element_ty), mask=there)


@triton.jit
def _load_row(numbers, at, count):
    """float32 of `numbers` as a row, 0 beyond `count`."""
    return tl.load(numbers + at, mask=at < count, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _store_tile(
    sums,
    scale,
    bias,
    shift,
    residual,
    out,
    outs,
    which,
    row,
    column,
    PIXELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SHIFTED: tl.constexpr,
    ADDED: tl.constexpr,
):
    """Scale a tile, add bias, shift and residual, and store it, 64 columns at a time."""
    if COLUMNS > 64:
        half: tl.constexpr = COLUMNS // 2
        left, right = sums.reshape(PIXELS, 2, half).permute(0, 2, 1).split()
        _store_tile(left, scale, bias, shift, residual, out, outs, which, row, column, PIXELS, half, SHIFTED, ADDED)
        _store_tile(
            right, scale, bias, shift, residual, out, outs, which, row, column + half, PIXELS, half, SHIFTED, ADDED
        )
    else:
        at = column + tl.arange(0, COLUMNS)
        sums = sums * _load_row(scale, at, outs) + _load_row(bias, at, outs)
        if SHIFTED:
            sums += _load_row(shift + which * outs, at, outs)
        if ADDED:
            sums += residual.load([which, row, column]).reshape(PIXELS, COLUMNS).to(tl.float32)
        out.store([which, row, column], sums.to(out.dtype).reshape(1, PIXELS, COLUMNS))


@triton.jit
def conv3x3_kernel(
    lines,
    weight,
    scale,
    bias,
    shift,
    residual,
    out,
    batch,
    height,
    width,
    outs,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    SHIFTED: tl.constexpr,
    ADDED: tl.constexpr,
):
    """Tiles of PIXELS x COLUMNS: a product for the line above, one for its own, one for the line below.

    Descriptors are `lines`, of blocks (PIXELS, DEPTH), `weight` (COLUMNS, DEPTH), `residual` and `out` (1, PIXELS, 64);
    see `conv3x3` for the shapes. CHANNELS are those of three pixels.
    """
    inner, across = tl.cdiv(height * width, PIXELS), tl.cdiv(outs, COLUMNS)
    steps: tl.constexpr = (CHANNELS + DEPTH - 1) // DEPTH
    for tile in tl.range(tl.program_id(0), batch * inner * across, tl.num_programs(0), flatten=True):
        column, place = tile % across * COLUMNS, tile // across
        which, row = place // inner, place % inner * PIXELS
        above = which * (height + 2) * width + row
        sums = tl.zeros((PIXELS, COLUMNS), tl.float32)
        for step in range(0, 3 * steps):
            line, channel = step // steps, step % steps * DEPTH
            states = lines.load([above + line * width, channel])
            sums = tl.dot(states, weight.load([column, line * CHANNELS + channel]).T, sums)
        _store_tile(sums, scale, bias, shift, residual, out, outs, which, row, column, PIXELS, COLUMNS, SHIFTED, ADDED)


@triton_op("ipa::silu_im2col", mutates_args=())
def silu_im2col(pictures: Sequence[Tensor], scale: Tensor, shift: Tensor) -> Tensor:
    """silu(picture * scale + shift) in fp8 as `conv3x3` takes it: (B, height + 2, width, 3 * channels).

    pictures: one or two, the second's channels behind the first's, each (B, height, width, its channels), contiguous;
    scale, shift: (B, channels) in float32. A pixel lies between its left and its right neighbor, zero beyond edges;
    above and below the picture is a line of zeros. The scale of all values is SILU_SCALE.
    """
    first, second = pictures[0], pictures[-1]
    batch, height, width, wide = first.shape
    if width == 1:  # Triton would make a constant of it, and ptxas 12.8 stores half of the edges' zeros
        plain = plain_silu_im2col([picture.float() for picture in pictures], scale, shift)
        return plain.clamp(-FP8_MAX, FP8_MAX).to(FP8)
    channels = scale.shape[1]
    out = first.new_empty(batch, height + 2, width, 3 * channels, dtype=FP8)
    block = min(128, channels & -channels)
    launchable(silu_im2col_kernel)[(batch * (height + 2), -(-width // 16), -(-channels // block))](
        first, second, scale, shift, out, height, width, wide, channels - wide, 1 / SILU_SCALE, FP8_MAX, 16, block
    )
    return out


def plain_silu_im2col(pictures: Sequence[Tensor], scale: Tensor, shift: Tensor) -> Tensor:
    """The reference of `silu_im2col`, without quantization."""
    picture = torch.cat(list(pictures), -1)
    states = F.silu(picture * scale[:, None, None] + shift[:, None, None]) / SILU_SCALE
    lines = F.pad(states, (0, 0, 1, 1, 1, 1))
    return torch.cat([lines[:, :, :-2], lines[:, :, 1:-1], lines[:, :, 2:]], -1)


@triton_op("ipa::conv3x3", mutates_args=())
def conv3x3(
    lines: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    pixels: int = 0,
    columns: int = 0,
    stages: int = 0,
) -> Tensor:
    """A 3x3 convolution in fp8 plus bias, `shift` and `residual`: (B, height, width, out), in the bias' dtype.

    lines: as `silu_im2col` makes them; weight: (out, 3 * 3 * channels), line by line; scale: (out,) in float32, of the
    products; bias: (out,); shift: (B, out); residual: (B, height, width, out).
    All contiguous, channels in sixteens. Without a tile, the one that fits best is taken.
    """
    batch, height, width, channels = lines.shape
    height, outs = height - 2, bias.shape[0]
    if not pixels:
        pixels, columns, stages = best_tile(height * width, batch, outs, multiprocessors(lines.device))
    out = bias.new_empty(batch, height * width, outs)
    launch_tiles(
        conv3x3_kernel,
        batch * -(-height * width // pixels) * -(-outs // columns),
        {"lines": [pixels, 128], "weight": [columns, 128], "residual": [1, pixels, 64], "out": [1, pixels, 64]},
        {
            "lines": lines.flatten(0, 2),
            "weight": weight,
            "scale": scale,
            "bias": bias,
            "shift": bias if shift is None else shift,
            "residual": weight[None] if residual is None else residual.flatten(1, 2),
            "out": out,
            "batch": batch,
            "height": height,
            "width": width,
            "outs": outs,
            "CHANNELS": channels,
            "PIXELS": pixels,
            "COLUMNS": columns,
            "DEPTH": 128,
            "SHIFTED": shift is not None,
            "ADDED": residual is not None,
        },
        8,
        stages,
    )
    return out.unflatten(1, (height, width))


def best_tile(pixels: int, batch: int, outs: int, processors: int) -> tuple[int, int, int]:
    """The tile that should take the least time: pixels, channels, stages; for a range of sizes the first of `TILES`."""
    if not isinstance(pixels, int):
        return TILES[0][:3]

    def cost(tile: tuple[int, int, int, float]) -> float:
        high, wide, _, each = tile
        return -(-batch * -(-pixels // high) * -(-outs // wide) // processors) * high * wide * each

    return min(TILES, key=cost)[:3]


def plain_conv3x3(
    lines: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """The reference of `conv3x3`."""
    rows = torch.cat([lines[:, :-2], lines[:, 1:-1], lines[:, 2:]], -1)
    out = F.linear(rows, weight) * scale + bias
    out = out if shift is None else out + shift[:, None, None]
    return out if residual is None else out + residual
