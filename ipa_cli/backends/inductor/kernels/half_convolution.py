"""A Triton kernel for a decoder's 3x3 convolutions in half precision: bias, residual and moments before it writes.

Imported only where Triton is installed. Rows of pixels are read through descriptors of two dimensions from a picture
with an edge of zeros: a tap is the same rows from another one on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from ipa_cli.backends.inductor.kernels.decoder_norm import _place
from ipa_cli.backends.inductor.kernels.launch import launch_tiles

DEPTH = 64  # channels that are read at once


@triton.jit
def _finish_tile(
    sums,
    bias,
    residual,
    out,
    moments,
    behind,
    outs,
    which,
    y,
    x,
    height,
    width,
    place,
    column,
    PIXELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ADDED: tl.constexpr,
    DOUBLED: tl.constexpr,
):
    """Add bias and residual to a tile, store it and its moments, 64 columns at a time."""
    if COLUMNS > 64:
        half: tl.constexpr = COLUMNS // 2
        left, right = sums.reshape(PIXELS, 2, half).permute(0, 2, 1).split()
        _finish_tile(
            left, bias, residual, out, moments, behind, outs, which, y, x, height, width, place, column,
            PIXELS, half, ADDED, DOUBLED,
        )  # fmt: skip
        _finish_tile(
            right, bias, residual, out, moments, behind, outs, which, y, x, height, width, place, column + half,
            PIXELS, half, ADDED, DOUBLED,
        )  # fmt: skip
    else:
        at = column + tl.arange(0, COLUMNS)
        sums += tl.load(bias + at).to(tl.float32)[None, :]
        row = (which * height + y) * width + x
        if ADDED and not DOUBLED:
            sums += residual.load([row, column]).to(tl.float32)
        if DOUBLED:
            pixel = _place(which.to(tl.int64), y, x + tl.arange(0, PIXELS), height, width, DOUBLED)
            sums += tl.load(residual + pixel[:, None] * outs + at[None, :]).to(tl.float32)
        out.store([row, column], sums.to(out.dtype))
        total, squares = tl.sum(sums, 0), tl.sum(sums * sums, 0)
        own = moments + place.to(tl.int64) * outs + at
        tl.store(own, total / PIXELS)
        tl.store(own + behind, squares - total * total / PIXELS)


@triton.jit
def half_conv3x3_kernel(
    lines,
    weight,
    bias,
    residual,
    out,
    moments,
    batch,
    height,
    width,
    outs,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    ADDED: tl.constexpr,
    DOUBLED: tl.constexpr,
):
    """Tiles of PIXELS of a line x COLUMNS: a product for each tap.

    Descriptors are `lines`, of blocks (PIXELS, DEPTH), `weight` (COLUMNS, DEPTH), `out` and a residual that is not
    DOUBLED (PIXELS, 64); see `half_conv3x3` for the shapes.
    """
    inner, across = width // PIXELS, outs // COLUMNS
    places = batch * height * inner
    steps: tl.constexpr = CHANNELS // DEPTH
    for tile in tl.range(tl.program_id(0), places * across, tl.num_programs(0), flatten=True):
        column, place = tile % across * COLUMNS, tile // across
        x, line = place % inner * PIXELS, place // inner
        which, y = line // height, line % height
        first = (which * (height + 2) + y) * (width + 2) + x
        sums = tl.zeros((PIXELS, COLUMNS), tl.float32)
        for step in range(0, 9 * steps):
            tap = step // steps
            states = lines.load([first + tap // 3 * (width + 2) + tap % 3, step % steps * DEPTH])
            sums = tl.dot(states, weight.load([column, step * DEPTH]).T, sums)
        _finish_tile(
            sums, bias, residual, out, moments, places.to(tl.int64) * outs, outs, which, y, x, height, width, place,
            column, PIXELS, COLUMNS, ADDED, DOUBLED,
        )  # fmt: skip


@triton_op("ipa::half_conv3x3", mutates_args=())
def half_conv3x3(
    lines: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    doubled: bool,
    pixels: int,
    columns: int,
    warps: int,
    stages: int,
) -> tuple[Tensor, Tensor]:
    """A 3x3 convolution plus bias and residual, (B, height, width, out), and its moments, (2, B, parts, out).

    lines: (B, height + 2, width + 2, channels), with an edge of zeros; weight: (out, 3, 3, channels); residual: as the
    result, or `doubled`. All contiguous; the rest is a tile that fits: `fits` says so. Parts are of `pixels` pixels.
    """
    batch, height, width, channels = lines.shape
    height, width, outs = height - 2, width - 2, weight.shape[0]
    out = lines.new_empty(batch, height, width, outs)
    parts, added = height * width // pixels, residual is not None
    wide = [pixels, min(columns, 64)]
    blocks = {"lines": [pixels, DEPTH], "weight": [columns, DEPTH], "out": wide}
    moments = torch.empty((2, batch, parts, outs), dtype=torch.float32, device=lines.device)
    launch_tiles(
        half_conv3x3_kernel,
        batch * parts * (outs // columns),
        blocks if doubled else {**blocks, "residual": wide},
        {
            "lines": lines.flatten(0, 2),
            "weight": weight.flatten(1),
            "bias": bias,
            "residual": weight.flatten(1) if residual is None else residual if doubled else residual.flatten(0, 2),
            "out": out.flatten(0, 2),
            "moments": moments,
            "batch": batch,
            "height": height,
            "width": width,
            "outs": outs,
            "CHANNELS": channels,
            "PIXELS": pixels,
            "COLUMNS": columns,
            "DEPTH": DEPTH,
            "ADDED": added,
            "DOUBLED": doubled,
        },
        warps,
        stages,
    )
    return out, moments


def fits(width: int, channels: int, outs: int, pixels: int, columns: int) -> bool:
    """Whether tiles of `pixels` and `columns` cover a picture of this width without a rest."""
    return not (width % pixels or channels % DEPTH or outs % columns)


def plain_half_conv3x3(lines: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    """The reference of `half_conv3x3`, without moments, for a residual that is not doubled."""
    out = F.conv2d(lines.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), bias).permute(0, 2, 3, 1)
    return out if residual is None else out + residual
