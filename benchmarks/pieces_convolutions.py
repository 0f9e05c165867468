"""Convolutions of residual blocks, and those that follow an upsampling, in several ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from pieces_common import FP8, Call, Group, compiled, normal
from torch import Tensor

from ipa_cli.backends.inductor.fp8 import quantize_conv
from ipa_cli.backends.inductor.kernels import convolution

# in, out, side of the output, kernel, stride, how often in a step
CONVS = [
    (320, 320, 128, 3, 1, 7),
    (640, 320, 128, 3, 1, 2),
    (960, 320, 128, 3, 1, 1),
    (320, 320, 64, 3, 2, 1),
    (640, 640, 64, 3, 1, 6),
    (320, 640, 64, 3, 1, 1),
    (1920, 640, 64, 3, 1, 1),
    (1280, 640, 64, 3, 1, 1),
    (960, 640, 64, 3, 1, 1),
    (640, 640, 32, 3, 2, 1),
    (1280, 1280, 32, 3, 1, 10),
    (640, 1280, 32, 3, 1, 1),
    (2560, 1280, 32, 3, 1, 2),
    (1920, 1280, 32, 3, 1, 1),
    (640, 320, 128, 1, 1, 2),
    (1920, 640, 64, 1, 1, 1),
    (2560, 1280, 32, 1, 1, 2),
    (4, 320, 128, 3, 1, 1),
    (320, 4, 128, 3, 1, 1),
]


def conv_inputs(given: int, out: int, side: int, kernel: int, stride: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """States, weights and bias of a convolution, channels last."""
    states = normal(2, given, side * stride, side * stride).to(memory_format=torch.channels_last)
    weights = [
        (normal(out, given, kernel, kernel) * (given * kernel**2) ** -0.5).to(memory_format=torch.channels_last)
        for _ in range(4)
    ]
    return states, weights, normal(out)


def our_convolutions(x: Tensor, weights: list[Tensor], bias: Tensor) -> dict[str, Call]:
    """In fp8 by our kernels: the convolution in several tiles, what it adds, and what it takes by itself."""
    picture, like = x.permute(0, 2, 3, 1), {"device": x.device, "dtype": torch.float32}
    scale, shift = (torch.full((x.shape[0], x.shape[1]), value, **like) for value in (1.0, 0.0))
    quantized = [quantize_conv(w) for w in weights]
    lines = convolution.plain_silu_im2col([picture], scale, shift).to(FP8)
    more = normal(*picture.shape[:3], bias.shape[0])
    found: dict[str, Call] = {
        "ours, the silu beside its neighbors": lambda i: convolution.silu_im2col([picture], scale, shift)
    }
    for tile in [(0, 0, 0), *(tile[:3] for tile in convolution.TILES)]:
        name = "x".join(map(str, tile)) if tile[0] else "the tile that fits"
        found[f"ours of silu, {name}"] = lambda i, tile=tile: convolution.conv3x3(
            lines, *quantized[i], bias, None, None, *tile
        )
    found["ours of silu, and a sum"] = lambda i: convolution.conv3x3(lines, *quantized[i], bias, None, more)
    return found


def conv() -> Iterator[Group]:
    """Convolutions of the resnets, and those that follow an upsampling."""
    for given, out, side, kernel, stride, times in CONVS:
        x, weights, bias = conv_inputs(given, out, side, kernel, stride)
        more: dict[str, Any] = {"stride": stride, "padding": kernel // 2}

        def plain(i: int, x=x, weights=weights, bias=bias, more=more) -> Tensor:
            return F.conv2d(x, weights[i], bias, **more)

        def searched(i: int, plain=plain) -> Tensor:
            torch.backends.cudnn.benchmark = True
            try:
                return plain(i)
            finally:
                torch.backends.cudnn.benchmark = False

        def expected(i: int, x=x, weights=weights, bias=bias, more=more) -> Tensor:
            return F.conv2d(x.float(), weights[i].float(), bias.float(), **more)

        ways: dict[str, Call] = {
            "cuDNN": plain,
            "cuDNN, benchmark": searched,
            "no bias": lambda i, x=x, w=weights, more=more: F.conv2d(x, w[i], None, **more),
        }
        if kernel == 1:
            ways["as a product"] = lambda i, x=x, w=weights, b=bias: F.linear(
                x.permute(0, 2, 3, 1), w[i][:, :, 0, 0], b
            ).permute(0, 3, 1, 2)
        if kernel == 3 and stride == 1 and given % 16 == out % 16 == 0:
            ways |= our_convolutions(x, weights, bias)
        flop = 2 * 2 * side**2 * given * out * kernel**2
        yield Group("conv", f"{given}-{out} at {side}, {kernel}x{kernel}/{stride}", times, ways, expected, flop, 4)
    for width, side in [(1280, 64), (640, 128)]:
        x, weights, bias = conv_inputs(width, width, side // 2, 3, 1)
        fours = [four_phases(x) for x in weights]
        enlarged = F.interpolate(x, scale_factor=2.0, mode="nearest")

        def after(i: int, x=x, weights=weights, bias=bias) -> Tensor:
            return F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weights[i], bias, padding=1)

        def expected(i: int, x=x, weights=weights, bias=bias) -> Tensor:
            big = F.interpolate(x.float(), scale_factor=2.0, mode="nearest")
            return F.conv2d(big, weights[i].float(), bias.float(), padding=1)

        weave = compiled(interleave)
        yield Group(
            "conv",
            f"upsampling {width} to {side}",
            1,
            {
                "upsample, cuDNN": after,
                "cuDNN alone": lambda i, x=enlarged, w=weights, b=bias: F.conv2d(x, w[i], b, padding=1),
                "four phases": lambda i, x=x, w=fours, b=bias, weave=weave: weave(
                    F.conv2d(x, w[i], None, padding=1), b
                ),
                "four phases, conv alone": lambda i, x=x, w=fours: F.conv2d(x, w[i], None, padding=1),
            },
            expected,
            2 * 2 * side**2 * width**2 * 9,
            4,
        )


def four_phases(three: Tensor) -> Tensor:
    """The 2x2 weights (4 * out, in, 2, 2) that do to small pictures what 3x3 ones do to those enlarged twofold."""
    wide = three.float()
    rows = [torch.stack([wide[:, :, 0], wide[:, :, 1] + wide[:, :, 2]], 2)]
    rows.append(torch.stack([wide[:, :, 0] + wide[:, :, 1], wide[:, :, 2]], 2))
    phases = [
        part
        for two in rows
        for part in (
            torch.stack([two[..., 0], two[..., 1] + two[..., 2]], 3),
            torch.stack([two[..., 0] + two[..., 1], two[..., 2]], 3),
        )
    ]
    return torch.cat(phases).to(three.dtype).contiguous(memory_format=torch.channels_last)


def interleave(four: Tensor, bias: Tensor) -> Tensor:
    """The picture whose pixels the four phases are: (B, 4 * out, h + 1, w + 1) to (B, out, 2 * h, 2 * w)."""
    phases = four.unflatten(1, (2, 2, -1))
    height, width = four.shape[2] - 1, four.shape[3] - 1
    rows = [
        torch.stack([phases[:, r, c, :, r : r + height, c : c + width] for c in (0, 1)], -1).flatten(-2) for r in (0, 1)
    ]
    out = torch.stack(rows, -2).flatten(-3, -2) + bias[:, None, None]
    return out.contiguous(memory_format=torch.channels_last)
