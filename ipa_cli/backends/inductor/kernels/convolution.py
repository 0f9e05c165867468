"""Triton kernels for the convolutions of residual blocks in fp8: what they take, from a norm, and themselves.

Imported only where Triton is installed. Each has a plain twin in PyTorch that computes the same in any precision.

A convolution is a product here, of rows that hold a pixel and its neighbours at both sides: rows of pixels are read
through descriptors of two dimensions, which the GPU reads much faster than boxes of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from ipa_cli.backends.inductor.fp8 import EIGHT, GRAIN, LARGEST
from ipa_cli.backends.inductor.kernels.launch import launch_tiles, launchable, multiprocessors

# Tiles: pixels, channels, stages, and how long each takes for its size, one against another, as measured on an H100.
TILES = ((128, 256, 3, 0.34), (256, 128, 3, 0.35), (128, 128, 4, 0.41))


@triton.jit
def neighbours_kernel(
    first,
    second,
    slope,
    shift,
    out,
    height,
    width,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    PER_GRAIN: tl.constexpr,
    LARGEST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A few pixels of a line, some of their channels, written three times; see `neighbours` for the shapes."""
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
    steep = tl.load(slope + of_channel, mask=channel < channels, other=0.0)
    numbers = numbers * steep + tl.load(shift + of_channel, mask=channel < channels, other=0.0)
    numbers = numbers * tl.sigmoid(numbers) * PER_GRAIN
    numbers = tl.where(given, tl.minimum(tl.maximum(numbers, -LARGEST), LARGEST), 0.0)
    own = out + line * width * 3 * channels + channel
    right, left = ((pixel + 1) % width)[:, None], ((pixel + width - 1) % width)[:, None]
    after = tl.where((pixel == width - 1)[:, None], 0.0, numbers)
    before = tl.where((pixel == 0)[:, None], 0.0, numbers)
    tl.store(own + right * (3 * channels), after.to(out.dtype.element_ty), mask=there)
    tl.store(own + pixel[:, None] * (3 * channels) + channels, numbers.to(out.dtype.element_ty), mask=there)
    tl.store(own + left * (3 * channels) + 2 * channels, before.to(out.dtype.element_ty), mask=there)


@triton.jit
def _some(numbers, at, count):
    """float32 of `numbers` as a row, 0 beyond `count`."""
    return tl.load(numbers + at, mask=at < count, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _write(
    sums,
    size,
    bias,
    shift,
    more,
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
    """Write columns, 64 by 64, what is to be added included."""
    if COLUMNS > 64:
        half: tl.constexpr = COLUMNS // 2
        left, right = sums.reshape(PIXELS, 2, half).permute(0, 2, 1).split()
        _write(left, size, bias, shift, more, out, outs, which, row, column, PIXELS, half, SHIFTED, ADDED)
        _write(right, size, bias, shift, more, out, outs, which, row, column + half, PIXELS, half, SHIFTED, ADDED)
    else:
        at = column + tl.arange(0, COLUMNS)
        sums = sums * _some(size, at, outs) + _some(bias, at, outs)
        if SHIFTED:
            sums += _some(shift + which * outs, at, outs)
        if ADDED:
            sums += more.load([which, row, column]).reshape(PIXELS, COLUMNS).to(tl.float32)
        out.store([which, row, column], sums.to(out.dtype).reshape(1, PIXELS, COLUMNS))


@triton.jit
def convolution_kernel(
    lines,
    weight,
    size,
    bias,
    shift,
    more,
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
    """Tiles of PIXELS x COLUMNS: a product for the line above, one for the own, one for that below.

    Descriptors are `lines`, of blocks (PIXELS, DEPTH), `weight` (COLUMNS, DEPTH), `more` and `out` (1, PIXELS, 64);
    see `convolution` for the shapes. CHANNELS are those of three pixels.
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
        _write(sums, size, bias, shift, more, out, outs, which, row, column, PIXELS, COLUMNS, SHIFTED, ADDED)


@triton_op("ipa::neighbours", mutates_args=())
def neighbours(pictures: Sequence[Tensor], slope: Tensor, shift: Tensor) -> Tensor:
    """silu(picture * slope + shift) in fp8 as `convolution` takes it: (B, height + 2, width, 3 * channels).

    pictures: one or two, the second's channels behind the first's, each (B, height, width, its channels), contiguous;
    slope, shift: (B, channels) in float32. A pixel lies between its left and its right neighbour, zero beyond edges;
    above and below the picture is a line of zeros. Out come numbers to be multiplied by GRAIN.
    """
    first, second = pictures[0], pictures[-1]
    batch, height, width, wide = first.shape
    channels = slope.shape[1]
    out = first.new_empty(batch, height + 2, width, 3 * channels, dtype=EIGHT)
    block = min(128, channels & -channels)
    launchable(neighbours_kernel)[(batch * (height + 2), -(-width // 16), -(-channels // block))](
        first, second, slope, shift, out, height, width, wide, channels - wide, 1 / GRAIN, LARGEST, 16, block
    )
    return out


def plain_neighbours(pictures: Sequence[Tensor], slope: Tensor, shift: Tensor) -> Tensor:
    """The twin of `neighbours`, not quantised."""
    picture = torch.cat(list(pictures), -1)
    states = F.silu(picture * slope[:, None, None] + shift[:, None, None]) / GRAIN
    lines = F.pad(states, (0, 0, 1, 1, 1, 1))
    return torch.cat([lines[:, :, :-2], lines[:, :, 1:-1], lines[:, :, 2:]], -1)


@triton_op("ipa::convolution", mutates_args=())
def convolution(
    lines: Tensor,
    weight: Tensor,
    size: Tensor,
    bias: Tensor,
    shift: Tensor | None = None,
    more: Tensor | None = None,
    pixels: int = 0,
    columns: int = 0,
    stages: int = 0,
) -> Tensor:
    """A 3x3 convolution in fp8 plus bias, `shift` and `more`: (B, height, width, out), in the bias' dtype.

    lines: as `neighbours` makes them; weight: (out, 3 * 3 * channels), a line's places beside each other; size: (out,)
    in float32, by which products are to be multiplied; bias: (out,); shift: (B, out); more: (B, height, width, out).
    All contiguous, channels in sixteens. The tile that fits best is taken if none is named.
    """
    batch, height, width, channels = lines.shape
    height, outs = height - 2, bias.shape[0]
    if not pixels:
        pixels, columns, stages = best_tile(height * width, batch, outs, multiprocessors(lines.device))
    out = bias.new_empty(batch, height * width, outs)
    launch_tiles(
        convolution_kernel,
        batch * -(-height * width // pixels) * -(-outs // columns),
        {"lines": [pixels, 128], "weight": [columns, 128], "more": [1, pixels, 64], "out": [1, pixels, 64]},
        {
            "lines": lines.flatten(0, 2),
            "weight": weight,
            "size": size,
            "bias": bias,
            "shift": bias if shift is None else shift,
            "more": weight[None] if more is None else more.flatten(1, 2),
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
            "ADDED": more is not None,
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


def plain_convolution(
    lines: Tensor, weight: Tensor, size: Tensor, bias: Tensor, shift: Tensor | None = None, more: Tensor | None = None
) -> Tensor:
    """The twin of `convolution`."""
    rows = torch.cat([lines[:, :-2], lines[:, 1:-1], lines[:, 2:]], -1)
    out = F.linear(rows, weight) * size + bias
    out = out if shift is None else out + shift[:, None, None]
    return out if more is None else out + more
