"""Triton kernels for group norm in a decoder: moments made with a sum, scale and shift, and SiLU.

Imported only where Triton is installed. Pictures are (B, height, width, channels), contiguous. A doubled one is what a
sub-pixel convolution makes of a picture of half the size (see `subpixel_place`), read where it lies, uncopied.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from ipa_cli.backends.inductor.kernels.launch import launchable

TILE = 8192  # numbers that a block of threads takes at once
PIXELS, WARPS, STAGES = 32, 4, 3  # of `moments_kernel`: pixels taken at once, loads under way at once
TAPS = 32  # columns of the last product: nine taps of three channels, and what fills them up


@triton.jit
def _place(which, y, x, height, width, DOUBLED: tl.constexpr):
    """Where a pixel lies, in pixels: see `subpixel_place`."""
    if DOUBLED:
        pair = (which * (height // 2 + 1) + (y + 1) // 2) * (width // 2 + 1)
        place = (pair + (x + 1) // 2) * 4 + y % 2 * 2 + (x + 1) % 2
    else:
        place = (which * height + y) * width + x
    return place


@triton.jit
def moments_kernel(
    states,
    residual,
    bias,
    out,
    moments,
    height,
    width,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PIXELS: tl.constexpr,
    DOUBLED: tl.constexpr,
    ADDED: tl.constexpr,
    STAGES: tl.constexpr,
):
    """A line of a picture, some of its channels; DOUBLED is the residual where one is ADDED, else `states`."""
    y, which = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    size = tl.num_programs(2).to(tl.int64) * height * CHANNELS
    of_line = (which * height + y) * CHANNELS + channel
    more = tl.zeros((BLOCK,), tl.float32)
    if ADDED:
        more = tl.load(bias + channel).to(tl.float32)
    # Moments about a number of the line itself, so that a mean much larger than the spread costs no bits.
    pivot = tl.load(states + _place(which, y, 0, height, width, DOUBLED and not ADDED) * CHANNELS + channel)
    pivot = pivot.to(tl.float32) + more
    if ADDED:
        pivot += tl.load(residual + _place(which, y, 0, height, width, DOUBLED) * CHANNELS + channel).to(tl.float32)
    # Each thread sums up its own numbers: sums over threads are made once, not for each piece of the line.
    first, second = tl.zeros((PIXELS, BLOCK), tl.float32), tl.zeros((PIXELS, BLOCK), tl.float32)
    for start in tl.range(0, width, PIXELS, num_stages=STAGES):
        x = start + tl.arange(0, PIXELS)
        there = (x < width)[:, None]
        at = _place(which, y, x, height, width, DOUBLED and not ADDED)[:, None] * CHANNELS + channel
        values = tl.load(states + at, mask=there, other=0.0).to(tl.float32)
        if ADDED:
            other = _place(which, y, x, height, width, DOUBLED)[:, None] * CHANNELS + channel
            values += tl.load(residual + other, mask=there, other=0.0).to(tl.float32) + more
            tl.store(out + at, values.to(out.dtype.element_ty), mask=there)
        values = tl.where(there, values - pivot, 0.0)
        first += values
        second += values * values
    total = tl.sum(first, 0)
    tl.store(moments + of_line, pivot + total / width)
    tl.store(moments + size + of_line, tl.sum(second, 0) - total * total / width)


@triton.jit
def scale_shift_kernel(
    moments,
    bias,
    weight,
    offset,
    out,
    height,
    width,
    eps,
    CHANNELS: tl.constexpr,
    EACH: tl.constexpr,
    WIDE: tl.constexpr,
    LINES: tl.constexpr,
    BIASED: tl.constexpr,
):
    """One group of EACH channels, LINES of the picture at once; see `scale_shift` for the shapes."""
    group, which = tl.program_id(0), tl.program_id(1).to(tl.int64)
    within = tl.arange(0, WIDE)
    channel = group * EACH + within
    of_group = within < EACH
    batch = tl.num_programs(1).to(tl.int64)
    means = moments + which * height * CHANNELS + channel[None, :]
    squares = means + batch * height * CHANNELS
    more = tl.zeros((WIDE,), tl.float32)
    if BIASED:
        more = tl.load(bias + channel, mask=of_group, other=0.0).to(tl.float32)
    total, inside = tl.zeros((LINES, WIDE), tl.float32), tl.zeros((LINES, WIDE), tl.float32)
    for start in range(0, height, LINES):
        line = start + tl.arange(0, LINES)
        there = (line < height)[:, None] & of_group[None, :]
        at = line[:, None] * CHANNELS
        total += tl.where(there, tl.load(means + at, mask=there, other=0.0) + more[None, :], 0.0)
        inside += tl.load(squares + at, mask=there, other=0.0)
    mean = tl.sum(tl.sum(total, 1), 0) / (height * EACH)
    between = tl.zeros((LINES, WIDE), tl.float32)
    for start in range(0, height, LINES):
        line = start + tl.arange(0, LINES)
        there = (line < height)[:, None] & of_group[None, :]
        apart = tl.load(means + line[:, None] * CHANNELS, mask=there, other=0.0) + more[None, :] - mean
        between += tl.where(there, apart * apart, 0.0)
    variance = tl.sum(tl.sum(inside / width + between, 1), 0) / (height * EACH)
    scale = tl.load(weight + channel, mask=of_group, other=0.0).to(tl.float32) * (
        1 / tl.sqrt(variance + tl.cast(eps, tl.float32))
    )
    shift = tl.load(offset + channel, mask=of_group, other=0.0).to(tl.float32) + (more - mean) * scale
    tl.store(out + which * CHANNELS + channel, scale, mask=of_group)
    tl.store(out + (batch + which) * CHANNELS + channel, shift, mask=of_group)


@triton.jit
def _scaled(states, at, factors, of_channel, behind, mask, SILU: tl.constexpr):
    """float32 of some pixels, scaled and shifted."""
    values = tl.load(states + at, mask=mask, other=0.0).to(tl.float32)
    values = values * tl.load(factors + of_channel)[None, :] + tl.load(factors + behind + of_channel)[None, :]
    if SILU:
        values = values / (1.0 + tl.exp(-values))
    return values


@triton.jit
def normed_kernel(
    states,
    factors,
    out,
    height,
    width,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PIXELS: tl.constexpr,
    DOUBLED: tl.constexpr,
    SILU: tl.constexpr,
):
    """A piece of a line, some of its channels."""
    blocks: tl.constexpr = CHANNELS // BLOCK
    which = (tl.program_id(2) // blocks).to(tl.int64)
    channel = tl.program_id(2) % blocks * BLOCK + tl.arange(0, BLOCK)
    y = tl.program_id(0)
    x = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    there = (x < width)[:, None]
    at = _place(which, y, x, height, width, DOUBLED)[:, None] * CHANNELS + channel
    behind = (tl.num_programs(2) // blocks).to(tl.int64) * CHANNELS
    values = _scaled(states, at, factors, which * CHANNELS + channel, behind, there, SILU)
    to = ((which * height + y) * width + x)[:, None] * CHANNELS + channel
    tl.store(out + to, values.to(out.dtype.element_ty), mask=there)


@triton.jit
def taps_kernel(
    states,
    factors,
    weight,
    out,
    pixels,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PIXELS: tl.constexpr,
    TAPS: tl.constexpr,
):
    """Pixels normed, with SiLU, times the weights of all taps: planes, (B, TAPS, pixels)."""
    which = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    there = (pixel < pixels)[:, None]
    behind = tl.num_programs(1).to(tl.int64) * CHANNELS
    tap = tl.arange(0, TAPS)
    sums = tl.zeros((PIXELS, TAPS), tl.float32)
    for start in tl.static_range(0, CHANNELS, BLOCK):
        channel = start + tl.arange(0, BLOCK)
        at = (which * pixels + pixel)[:, None] * CHANNELS + channel
        values = _scaled(states, at, factors, which * CHANNELS + channel, behind, there, True)
        columns = tl.load(weight + tap[None, :] * CHANNELS + channel[:, None])
        sums = tl.dot(values.to(columns.dtype), columns, sums, input_precision="ieee")
    planes = out + (which * TAPS + tap)[None, :] * pixels + pixel[:, None]
    tl.store(planes, sums.to(out.dtype.element_ty), mask=there)


@triton.jit
def sum_of_taps_kernel(planes, bias, out, height, width, OUTS: tl.constexpr, TAPS: tl.constexpr, PIXELS: tl.constexpr):
    """A piece of a line, one channel: the nine taps' planes, each from where it looks."""
    y, channel = tl.program_id(0), tl.program_id(2) % OUTS
    which = (tl.program_id(2) // OUTS).to(tl.int64)
    x = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    sums = tl.zeros((PIXELS,), tl.float32) + tl.load(bias + channel).to(tl.float32)
    for tap in tl.static_range(9):
        row, column = y + tap // 3 - 1, x + tap % 3 - 1
        there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        plane = planes + (which * TAPS + tap * OUTS + channel) * height * width
        sums += tl.load(plane + row * width + column, mask=there, other=0.0).to(tl.float32)
    to = out + ((which * OUTS + channel) * height + y) * width + x
    tl.store(to, sums.to(out.dtype.element_ty), mask=x < width)


@triton_op("ipa::moments", mutates_args=())
def moments(states: Tensor, doubled: bool) -> Tensor:
    """Mean and squared distances from it of each line and channel: (2, B, height, channels) in float32."""
    batch, height, width, channels = picture_shape(states, doubled)
    made = torch.empty((2, batch, height, channels), dtype=torch.float32, device=states.device)
    block, _ = blocks(channels)
    launchable(moments_kernel)[(height, channels // block, batch)](
        states, states, states, states, made, height, width,
        channels, block, PIXELS, doubled, False, STAGES, num_warps=WARPS,
    )  # fmt: skip
    return made


@triton_op("ipa::add_moments", mutates_args=())
def add_moments(states: Tensor, residual: Tensor, bias: Tensor, doubled: bool) -> tuple[Tensor, Tensor]:
    """states + residual + bias, and its `moments`; `doubled` is the residual's."""
    batch, height, width, channels = states.shape
    out = torch.empty_like(states)
    made = torch.empty((2, batch, height, channels), dtype=torch.float32, device=states.device)
    block, _ = blocks(channels)
    launchable(moments_kernel)[(height, channels // block, batch)](
        states, residual, bias, out, made, height, width,
        channels, block, PIXELS, doubled, True, STAGES, num_warps=WARPS,
    )  # fmt: skip
    return out, made


@triton_op("ipa::scale_shift", mutates_args=())
def scale_shift(
    moments: Tensor, width: int, bias: Tensor | None, weight: Tensor, offset: Tensor, groups: int, eps: float
) -> Tensor:
    """What a group norm multiplies each channel by and then adds: (2, B, channels) in float32.

    moments: (2, B, height, channels), of lines of `width` pixels each, and of a picture that lacks `bias`, (channels,),
    which the shift makes up for; weight, offset: those of the norm.
    """
    _, batch, height, channels = moments.shape
    made = moments.new_empty(2, batch, channels)
    each = channels // groups
    wide = triton.next_power_of_2(each)
    launchable(scale_shift_kernel)[(groups, batch)](
        moments, weight if bias is None else bias, weight, offset, made, height, width, eps,
        channels, each, wide, min(triton.next_power_of_2(height), 4096 // wide), bias is not None, num_warps=8,
    )  # fmt: skip
    return made


@triton_op("ipa::normed", mutates_args=())
def normed(states: Tensor, factors: Tensor, doubled: bool, silu: bool) -> Tensor:
    """states * scale + shift of each channel and perhaps SiLU: (B, height, width, channels).

    factors: as `scale_shift` gives them.
    """
    batch, height, width, channels = picture_shape(states, doubled)
    out = states.new_empty(batch, height, width, channels)
    block, pixels = blocks(channels)
    grid = (height, -(-width // pixels), batch * (channels // block))
    launchable(normed_kernel)[grid](
        states, factors, out, height, width, channels, block, pixels, doubled, silu, num_warps=4
    )
    return out


@triton_op("ipa::output_convolution", mutates_args=())
def output_convolution(states: Tensor, factors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The 3x3 convolution of a picture normed by `factors`, with SiLU, to at most three channels.

    One product for all nine taps, whose sum is made apart. weight: (out, channels, 3, 3); the result: (B, out, height,
    width).
    """
    batch, height, width, channels = states.shape
    outs = weight.shape[0]
    rows = F.pad(weight.permute(2, 3, 0, 1).reshape(9 * outs, channels), (0, 0, 0, TAPS - 9 * outs))
    planes = states.new_empty(batch, TAPS, height * width)
    block = min(128, channels & -channels)
    launchable(taps_kernel)[(-(-height * width // 128), batch)](
        states, factors, rows, planes, height * width, channels, block, 128, TAPS, num_warps=4
    )
    out = states.new_empty(batch, outs, height, width)
    launchable(sum_of_taps_kernel)[(height, -(-width // 1024), batch * outs)](
        planes, bias, out, height, width, outs, TAPS, min(1024, triton.next_power_of_2(width)), num_warps=4
    )
    return out


def blocks(channels: int) -> tuple[int, int]:
    """Channels and pixels that a block of threads takes at once."""
    block = min(128, channels & -channels)
    return block, min(128, TILE // block)


def picture_shape(states: Tensor, doubled: bool) -> tuple[int, int, int, int]:
    """Batch, height, width and channels of a picture."""
    batch, height, width, channels = states.shape
    return (batch, 2 * height - 2, 2 * width - 2, channels // 4) if doubled else (batch, height, width, channels)


def subpixel_place(states: Tensor) -> Tensor:
    """A doubled picture (B, h + 1, w + 1, 4 * channels) as a plain one (B, 2h, 2w, channels).

    Of the four pixels that lie together, the first two are of an even line, the others of an odd one that begins one
    place further down; the first and third of an odd column, the others of the even one behind it.
    """
    even, odd = (half.unflatten(3, (2, -1)).flatten(2, 3)[:, :, 1:-1] for half in states.chunk(2, 3))
    return torch.stack([even[:, :-1], odd[:, 1:]], 2).flatten(1, 2)
