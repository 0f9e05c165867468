"""Triton kernels for the statistics of a group norm over channels-last pictures: what each channel is scaled by and
shifted by.

Imported only where Triton is installed. Their plain reference in PyTorch is `norms.GroupNorm.scale_shift`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from ipa_cli.backends.inductor.kernels.launch import launchable

CHUNKS = 64  # at most, of a picture's pixels
TOGETHER = 16  # chunks whose sums are read at once


@triton.jit
def _load_pixels(first, second, pixel, channel, mask, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """Pixels of two pictures side by side in float32, 0 where `mask` is false."""
    numbers = tl.load(first + pixel * FIRST + channel, mask=mask & (channel < FIRST), other=0.0).to(tl.float32)
    if SECOND:
        at = second + pixel * SECOND + (channel - FIRST)
        numbers += tl.load(at, mask=mask & (channel >= FIRST), other=0.0).to(tl.float32)
    return numbers


@triton.jit
def channel_sums_kernel(
    first,
    second,
    sums,
    pixels,
    span,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Sums of a chunk of `span` pixels by channel: of the differences from the picture's first pixel, and of their
    squares; `sums` is (B, chunks, 2, channels)."""
    which, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    channels: tl.constexpr = FIRST + SECOND
    there = channel < channels
    origin = _load_pixels(first, second, which * pixels, channel, there, FIRST, SECOND)
    plain = tl.zeros((PIXELS, CHANNELS), tl.float32)
    square = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for start in range(0, span, PIXELS):
        pixel = chunk * span + start + tl.arange(0, PIXELS)[:, None]
        mask = there & (pixel < pixels) & (pixel < (chunk + 1) * span)
        numbers = _load_pixels(first, second, which * pixels + pixel, channel, mask, FIRST, SECOND)
        numbers = tl.where(mask, numbers - origin, 0.0)
        plain += numbers
        square += numbers * numbers
    out = sums + (which * tl.num_programs(1) + chunk) * (2 * channels) + channel
    tl.store(out, tl.sum(plain, 0)[None, :], mask=there)
    tl.store(out + channels, tl.sum(square, 0)[None, :], mask=there)


@triton.jit
def scale_shift_kernel(
    first,
    second,
    sums,
    weight,
    bias,
    scale,
    shift,
    pixels,
    chunks,
    eps,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """A group of WIDTH channels, held in CHANNELS."""
    which, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    within = tl.arange(0, CHANNELS)[None, :]
    channel, there = group * WIDTH + within, within < WIDTH
    channels: tl.constexpr = FIRST + SECOND
    origin = _load_pixels(first, second, which * pixels, channel, there, FIRST, SECOND)
    plain = tl.zeros((TOGETHER, CHANNELS), tl.float32)
    square = tl.zeros((TOGETHER, CHANNELS), tl.float32)
    for start in range(0, chunks, TOGETHER):
        chunk = start + tl.arange(0, TOGETHER)[:, None]
        mask = there & (chunk < chunks)
        at = sums + (which * chunks + chunk) * (2 * channels) + channel
        plain += tl.load(at, mask=mask, other=0.0)
        square += tl.load(at + channels, mask=mask, other=0.0)
    offset = tl.sum(plain, 0)[None, :] / pixels
    variance = tl.sum(square, 0)[None, :] / pixels - offset * offset
    mean = origin + offset
    of_group = tl.sum(mean, 1)[:, None] / WIDTH  # channels that are not there have 0
    apart = tl.where(there, mean - of_group, 0.0)
    factor = tl.rsqrt(tl.sum(variance + apart * apart, 1)[:, None] / WIDTH + tl.cast(eps, tl.float32))
    factor = factor * tl.load(weight + channel, mask=there, other=0.0).to(tl.float32)
    added = tl.load(bias + channel, mask=there, other=0.0).to(tl.float32) - of_group * factor
    tl.store(scale + which * channels + channel, factor, mask=there)
    tl.store(shift + which * channels + channel, added, mask=there)


@triton_op("ipa::group_norm", mutates_args=())
def group_norm(
    pictures: Sequence[Tensor], weight: Tensor, bias: Tensor, groups: int, eps: float, pixels: int = 32, warps: int = 4
) -> tuple[Tensor, Tensor]:
    """What a group norm multiplies each channel by and adds to it then: (B, channels), twice, in float32.

    pictures: one or two, the second's channels behind the first's, each (B, height, width, its channels), contiguous.
    """
    first, second = pictures[0], pictures[-1]
    batch, height, width, wide = first.shape
    channels, count = weight.shape[0], height * width
    span = -(-count // CHUNKS)
    span = -(-span // pixels) * pixels
    chunks = -(-count // span)
    sums = first.new_empty(batch, chunks, 2, channels, dtype=torch.float32)
    scale, shift = (first.new_empty(batch, channels, dtype=torch.float32) for _ in range(2))
    block = min(64, triton.next_power_of_2(channels))
    launchable(channel_sums_kernel)[(batch, chunks, -(-channels // block))](
        first, second, sums, count, span, wide, channels - wide, pixels, block, num_warps=warps
    )
    each = channels // groups
    launchable(scale_shift_kernel)[(batch, groups)](
        first,
        second,
        sums,
        weight,
        bias,
        scale,
        shift,
        count,
        chunks,
        eps,
        wide,
        channels - wide,
        each,
        triton.next_power_of_2(each),
        TOGETHER,
        num_warps=4,
    )
    return scale, shift
