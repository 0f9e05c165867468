"""How the pieces of one SDXL step do, each in several ways, on one GPU: time, error and what it means for a step.

    python benchmarks/pieces.py [--parts cross,self,linear,geglu,conv] [--limit 80]

Shapes are those of 1024x1024 with guidance (batch 2). Times are of CUDA graphs that repeat a call over several sets of
weights, so that weights come from memory as they do in a UNet and states may lie in the cache. Errors are against
fp32. "saved" is the time of a step against the first line of its group. A JSON file goes to $OUT when that is set.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ipa_cli.backends import convs, gates, kernels
from ipa_cli.backends.eight_bit import quantised_taps

LEVELS = [(4096, 10, 10), (1024, 20, 60)]  # pixels, heads of 64, layers
DEVICE = "cuda"
HALF = torch.float16
EIGHT = torch.float8_e4m3fn
CUDNN, FLASH = SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION
Call = Callable[[int], Any]


@dataclass
class Group:
    """One computation in several ways; the first is what is done so far."""

    part: str
    name: str
    times: int  # in a step
    ways: dict[str, Call]  # each takes the number of a set of inputs
    expected: Call | None = None  # in fp32
    flop: float = 0
    sets: int = 8
    rows: list[dict[str, Any]] = field(default_factory=list)


def normal(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
    """Random numbers on the GPU."""
    return torch.randn(shape, device=DEVICE, dtype=dtype)


def weight(out: int, given: int) -> Tensor:
    """The weight of a product that keeps unit size."""
    return normal(out, given) * given**-0.5


def compiled(call: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`torch.compile` for fixed shapes."""
    return torch.compile(call, dynamic=False, fullgraph=True, **options)


def cross() -> Iterator[Group]:
    """Text and image cross attention with one query."""
    for pixels, heads, layers in LEVELS:
        for tokens in (4, 16):
            query = [normal(2, pixels, heads * 64) for _ in range(2)]
            text = [normal(2, 2, heads, 77, 64) for _ in range(8)]
            image = [normal(2, 2, heads, tokens, 64) for _ in range(8)]
            scale = torch.tensor([0.37], device=DEVICE)[0]

            def plain(i: int, backend: SDPBackend, query=query, text=text, image=image, scale=scale) -> Tensor:
                split = query[i % 2].unflatten(-1, (text[i].shape[2], -1)).transpose(1, 2)
                with sdpa_kernel(backend):
                    seen = F.scaled_dot_product_attention(split, text[i][0], text[i][1])
                    shown = F.scaled_dot_product_attention(split, image[i][0], image[i][1])
                return torch.addcmul(seen, shown, scale.to(HALF)).transpose(1, 2).flatten(2)

            def fused(i: int, query=query, text=text, image=image, scale=scale, **blocks: int) -> Tensor:
                return kernels.cross_attention(query[i % 2], text[i], image[i], scale, **blocks)

            def expected(i: int, query=query, text=text, image=image, scale=scale) -> Tensor:
                given = (query[i % 2].float(), text[i].float(), image[i].float())
                return kernels.plain_cross_attention(*given, scale)

            ways: dict[str, Call] = {
                "two cuDNN": lambda i, plain=plain: plain(i, CUDNN),
                "two flash": lambda i, plain=plain: plain(i, FLASH),
            }
            shapes = [(128, 128, 4), (128, 128, 8), (64, 128, 4), (64, 32, 4), (64, 16, 4)]
            for rows, block, warps in shapes if tokens == 4 else shapes[:1]:
                ways[f"triton {rows} rows, {block}, {warps} warps"] = lambda i, f=fused, r=rows, b=block, w=warps: f(
                    i, rows=r, text_block=b, warps=w
                )
            yield Group("cross", f"{pixels} px, {tokens} tokens", layers, ways, expected)


def attend(query: Tensor, key: Tensor, value: Tensor, backend: SDPBackend) -> Tensor:
    """(B, heads, pixels, 64) three times to (B, pixels, heads * 64)."""
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def self_attention() -> Iterator[Group]:
    """Queries, keys and values as one product or three, and attention on strided views of one."""
    for pixels, heads, layers in LEVELS:
        width = heads * 64
        states = [normal(2, pixels, width) for _ in range(2)]
        weights = [weight(3 * width, width) for _ in range(8)]

        def three(i: int, states=states, weights=weights) -> list[Tensor]:
            return [F.linear(states[i % 2], part) for part in weights[i].chunk(3)]

        def one(i: int, states=states, weights=weights) -> tuple[Tensor, ...]:
            return F.linear(states[i % 2], weights[i]).chunk(3, dim=-1)

        def split(parts: Any, heads: int = heads) -> list[Tensor]:
            return [part.unflatten(-1, (heads, 64)).transpose(1, 2) for part in parts]

        def expected(i: int, split: Any = split, states=states, weights=weights) -> Tensor:
            query, key, value = split(F.linear(states[i % 2].float(), weights[i].float()).chunk(3, dim=-1))
            outs = [
                F.scaled_dot_product_attention(*(x[:, h : h + 1] for x in (query, key, value)))
                for h in range(query.shape[1])
            ]
            return torch.cat(outs, 1).transpose(1, 2).flatten(2)

        flop = 2 * 2 * pixels * width * 3 * width
        yield Group("self", f"{pixels} px, products", layers, {"three": three, "one": one}, flop=flop)
        apart, together = split(three(0)), split(one(0))
        whole = [F.linear(x, weights[0]) for x in states]

        def fused(i: int, whole=whole, heads=heads, **blocks: int) -> Tensor:
            return kernels.self_attention(whole[i % 2], heads, **blocks)

        ours = {}
        for shape in [(128, 64, 4, 3), (128, 128, 8, 2), (128, 128, 4, 2), (64, 64, 4, 3), (64, 128, 4, 2)]:
            named = dict(zip(("rows", "block", "warps", "stages"), shape, strict=True))
            ours["triton " + "x".join(map(str, shape))] = lambda i, f=fused, named=named: f(i, **named)
        yield Group(
            "self",
            f"{pixels} px, attention",
            layers,
            {
                "cuDNN": lambda i, q=apart: attend(*q, CUDNN),
                "cuDNN strided": lambda i, q=together: attend(*q, CUDNN),
                "flash": lambda i, q=apart: attend(*q, FLASH),
                "flash strided": lambda i, q=together: attend(*q, FLASH),
                **ours,
            },
            lambda i, whole=whole, heads=heads: kernels.plain_self_attention(whole[i % 2].float(), heads),
            flop=4 * 2 * heads * pixels**2 * 64,
        )
        yield Group(
            "self",
            f"{pixels} px, both",
            layers,
            {
                "three, cuDNN": lambda i, three=three, split=split: attend(*split(three(i)), CUDNN),
                "one, cuDNN": lambda i, one=one, split=split: attend(*split(one(i)), CUDNN),
                "one, flash": lambda i, one=one, split=split: attend(*split(one(i)), FLASH),
            },
            expected,
            flop + 4 * 2 * heads * pixels**2 * 64,
        )


def gate(both: Tensor) -> Tensor:
    """What Inductor makes of the pointwise half."""
    rows, width = both.shape[0], both.shape[1] // 2
    out = both.new_empty(rows, width)
    GATE[(triton.cdiv(rows * width, 1024),)](both, out, rows * width, width, 1024, num_warps=4)
    return out


def geglu_inputs(pixels: int, width: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """States, weights and the bias of the first half of a feed-forward network."""
    inner = 4 * width
    return (
        [normal(2 * pixels, width) for _ in range(2)],
        [weight(2 * inner, width) for _ in range(8)],
        normal(2 * inner),
    )


def geglu() -> Iterator[Group]:
    """The first product of the feed-forward network and its gate."""
    for pixels, heads, layers in LEVELS:
        states, weights, bias = geglu_inputs(pixels, heads * 64)

        def fused(i: int, states=states, weights=weights, bias=bias, **blocks: int) -> Tensor:
            return gates.geglu(states[i % 2], weights[i], bias, **blocks)

        def expected(i: int, states=states, weights=weights, bias=bias) -> Tensor:
            return gates.plain_geglu(states[i % 2].float(), weights[i].float(), bias.float())

        def product(i: int, states=states, weights=weights, bias=bias) -> Tensor:
            return F.linear(states[i % 2], weights[i], bias)

        ways: dict[str, Call] = {
            "cuBLAS, pointwise": lambda i, product=product: gate(product(i)),
            "the product alone": product,
        }
        for warps in (4, 8):
            ways[f"cuBLAS, fp8 by rows, {warps}"] = lambda i, p=product, w=warps: gates.gated_rows(p(i), w)
        for shape in [
            (128, 128, 64, 16, 8, 4),
            (128, 128, 64, 8, 8, 3),
            (128, 64, 64, 8, 4, 3),
            (256, 64, 64, 8, 8, 4),
        ]:
            named = dict(zip(("rows", "width", "depth", "group", "warps", "stages"), shape, strict=True))
            ways["triton " + "x".join(map(str, shape))] = lambda i, f=fused, named=named: f(i, **named)
        eight = [quantise(x) for x in states], [quantise(x) for x in weights]
        ways["fp8, then by rows"] = lambda i, e=eight, b=bias: gates.gated_rows(
            scaled(e[0][i % 2], e[1][i], b, HALF), 8
        )
        ways["fp8 by blocks"] = lambda i, e=eight, b=bias: gates.geglu_blocks(
            *e[0][i % 2], e[1][i][0], e[1][i][1].t(), b
        )
        yield Group("geglu", f"{pixels} px", layers, ways, expected, 16 * 2 * pixels * (heads * 64) ** 2)


def quantise(states: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in fp8, and each row's scale."""
    states = states.float()
    scale = states.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
    return (states / scale).to(EIGHT), scale


def scaled(states: tuple[Tensor, Tensor], weights: tuple[Tensor, Tensor], bias: Tensor | None, out: Any) -> Tensor:
    """A product of fp8 rows; scales (rows, 1) twice, or () twice."""
    scale = weights[1].t() if weights[1].ndim else weights[1]
    return torch._scaled_mm(states[0], weights[0].t(), states[1], scale, bias=bias, out_dtype=out, use_fast_accum=True)


def linear() -> Iterator[Group]:
    """Every large linear layer in fp16 and in fp8; quantising is counted apart."""
    for pixels, heads, layers in LEVELS:
        width, rows = heads * 64, 2 * pixels
        kinds = {
            "qkv": (3 * width, width, layers),
            "square": (width, width, 3 * layers),
            "ff in": (8 * width, width, layers),
            "ff out": (width, 4 * width, layers),
        }
        for name, (out, given, times) in kinds.items():
            states = [normal(rows, given) for _ in range(2)]
            weights = [weight(out, given) for _ in range(max(8, 2**27 // out // given // 2))][:40]
            bias = normal(out)
            row_states, row_weights = [quantise(x) for x in states], [quantise(x) for x in weights]
            one = torch.ones((), device=DEVICE)
            all_states = [((x * 64).to(EIGHT), one / 64) for x in states]
            all_weights = [((x * 64 * given**0.5).to(EIGHT), one / 64 * given**-0.5) for x in weights]

            def lt(i: int, states=states, weights=weights, bias=bias) -> Tensor:
                with preferred("cublaslt"):
                    return F.linear(states[i % 2], weights[i])

            def expected(i: int, states=states, weights=weights) -> Tensor:
                return F.linear(states[i % 2].float(), weights[i].float())

            yield Group(
                "linear",
                f"{name} {rows}x{out}x{given}",
                times,
                {
                    "fp16": lambda i, s=states, w=weights: F.linear(s[i % 2], w[i]),
                    "fp16 cublasLt": lt,
                    "fp16 triton 128x128": lambda i, s=states, w=weights: product(s[i % 2], w[i], 128, 128, 4, 4),
                    "fp16 triton 256x128": lambda i, s=states, w=weights: product(s[i % 2], w[i], 256, 128, 8, 3),
                    "fp16 triton 128x256": lambda i, s=states, w=weights: product(s[i % 2], w[i], 128, 256, 8, 3),
                    "fp8 one scale": lambda i, s=all_states, w=all_weights: scaled(s[i % 2], w[i], None, HALF),
                    "fp8 rows": lambda i, s=row_states, w=row_weights: scaled(s[i % 2], w[i], None, HALF),
                    "fp8 rows, bf16 out": lambda i, s=row_states, w=row_weights: scaled(
                        s[i % 2], w[i], None, torch.bfloat16
                    ),
                },
                expected,
                2 * rows * out * given,
                len(weights),
            )
            if name in ("square", "ff out"):

                def biased(i: int, states=states, weights=weights, bias=bias) -> Tensor:
                    return F.linear(states[i % 2].float(), weights[i].float(), bias.float())

                yield Group(
                    "linear",
                    f"{name} {rows}x{out}x{given} bias",
                    times,
                    {
                        "fp16": lambda i, s=states, w=weights, b=bias: F.linear(s[i % 2], w[i], b),
                        "fp8 one scale": lambda i, s=all_states, w=all_weights, b=bias: scaled(s[i % 2], w[i], b, HALF),
                        "fp8 rows": lambda i, s=row_states, w=row_weights, b=bias: scaled(s[i % 2], w[i], b, HALF),
                    },
                    biased,
                    2 * rows * out * given,
                    len(weights),
                )


@contextlib.contextmanager
def preferred(library: str) -> Iterator[None]:
    """Another library for products, for a while."""
    before = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library(library)
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(before)


def norm() -> Iterator[Group]:
    """Norms as Inductor writes them, with and without fp8 rows at their end; GroupNorm with SiLU."""
    after = compiled(lambda x, y, w, b: _residual_norm(x, y, w, b))
    after_quantised = compiled(lambda x, y, w, b: (lambda r, n: (r, *quantise(n)))(*_residual_norm(x, y, w, b)))
    just, gate_quantised = compiled(quantise), compiled(lambda x: quantise(_gate(x)))
    for pixels, heads, layers in LEVELS:
        width, rows = heads * 64, 2 * pixels
        x, y, w, b = normal(rows, width), normal(rows, width), normal(width), normal(width)
        both = [normal(rows, 8 * width) for _ in range(2)]
        yield Group(
            "norm",
            f"{pixels} px, residual and LayerNorm",
            3 * layers,
            {
                "fp16": lambda i, given=(x, y, w, b): after(*given),
                "fp8 rows": lambda i, given=(x, y, w, b): after_quantised(*given),
                "fp8 rows alone": lambda i, x=x: just(x),
            },
        )
        yield Group(
            "norm",
            f"{pixels} px, gate",
            layers,
            {
                "fp16": lambda i, both=both: gate(both[i % 2]),
                "fp8 rows": lambda i, both=both: gate_quantised(both[i % 2]),
            },
        )
    smooth = compiled(lambda x, w, b: F.silu(F.group_norm(x, 32, w, b, 1e-5)))
    for width, side, times in [
        (320, 128, 7),
        (640, 128, 2),
        (960, 128, 1),
        (640, 64, 7),
        (1920, 64, 1),
        (1280, 32, 12),
    ]:
        x = normal(2, width, side, side).to(memory_format=torch.channels_last)
        w, b = normal(width), normal(width)

        def flat(i: int, x: Tensor = x, w: Tensor = w, b: Tensor = b) -> Tensor:
            return F.silu(F.group_norm(x, 32, w, b, 1e-5))

        def expected(i: int, x: Tensor = x, w: Tensor = w, b: Tensor = b) -> Tensor:
            return F.silu(F.group_norm(x.float(), 32, w.float(), b.float(), 1e-5))

        yield Group(
            "norm",
            f"GroupNorm {width} at {side}",
            times,
            {"inductor": lambda i, x=x, w=w, b=b: smooth(x, w, b), "eager": flat},
            expected,
        )


def _residual_norm(x: Tensor, y: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    total = x + y
    return total, F.layer_norm(total, (total.shape[-1],), w, b)


def _gate(both: Tensor) -> Tensor:
    value, gate = both.chunk(2, dim=-1)
    return value * F.gelu(gate)


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
    slope, shift = (torch.full((x.shape[0], x.shape[1]), value, **like) for value in (1.0, 0.0))
    eight = [quantised_taps(w) for w in weights]
    lines = convs.plain_neighbours([picture], slope, shift).to(EIGHT)
    more = normal(*picture.shape[:3], bias.shape[0])
    found: dict[str, Call] = {
        "ours, the silu beside its neighbours": lambda i: convs.neighbours([picture], slope, shift)
    }
    for tile in [(0, 0, 0), *(tile[:3] for tile in convs.TILES)]:
        name = "x".join(map(str, tile)) if tile[0] else "the tile that fits"
        found[f"ours of silu, {name}"] = lambda i, tile=tile: convs.convolution(
            lines, *eight[i], bias, None, None, *tile
        )
    found["ours of silu, and a sum"] = lambda i: convs.convolution(lines, *eight[i], bias, None, more)
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


def autotune() -> Iterator[Group]:
    """What Inductor finds when it measures products, gates and convolutions itself; slow to compile, so last."""
    best = {"max_autotune": True, "coordinate_descent_tuning": False}
    for pixels, heads, layers in reversed(LEVELS):
        states, weights, bias = geglu_inputs(pixels, heads * 64)
        own = compiled(gates.plain_geglu, options={**best, "max_autotune_gemm_backends": "TRITON"})
        yield Group(
            "autotune",
            f"geglu {pixels} px",
            layers,
            {
                "cuBLAS, pointwise": lambda i, s=states, w=weights, b=bias: gate(F.linear(s[i % 2], w[i], b)),
                "inductor": lambda i, s=states, w=weights, b=bias, own=own: own(s[i % 2], w[i], b),
            },
            lambda i, s=states, w=weights, b=bias: gates.plain_geglu(s[i % 2].float(), w[i].float(), b.float()),
            16 * 2 * pixels * (heads * 64) ** 2,
        )
        square = [weight(heads * 64, heads * 64) for _ in range(40)]
        linear = compiled(lambda x, w: F.linear(x, w), options=best)
        yield Group(
            "autotune",
            f"square {2 * pixels}x{heads * 64}x{heads * 64}",
            3 * layers,
            {
                "fp16": lambda i, s=states, w=square: F.linear(s[i % 2], w[i]),
                "inductor": lambda i, s=states, w=square, linear=linear: linear(s[i % 2], w[i]),
            },
            lambda i, s=states, w=square: F.linear(s[i % 2].float(), w[i].float()),
            2 * 2 * pixels * (heads * 64) ** 2,
            40,
        )
    for given, out, side, kernel, stride, times in [CONVS[10], CONVS[0], CONVS[4]]:
        x, weights, bias = conv_inputs(given, out, side, kernel, stride)
        own = compiled(lambda x, w, b: F.conv2d(x, w, b, padding=1), options=best)
        yield Group(
            "autotune",
            f"conv {given}-{out} at {side}",
            times,
            {
                "cuDNN": lambda i, x=x, w=weights, b=bias: F.conv2d(x, w[i], b, padding=1),
                "inductor": lambda i, x=x, w=weights, b=bias, own=own: own(x, w[i], b),
            },
            lambda i, x=x, w=weights, b=bias: F.conv2d(x.float(), w[i].float(), b.float(), padding=1),
            2 * 2 * side**2 * given * out * kernel**2,
            4,
        )


PARTS = {
    "cross": cross,
    "self": self_attention,
    "linear": linear,
    "geglu": geglu,
    "conv": conv,
    "norm": norm,
    "autotune": autotune,
}


# Kernels that are measured against and not used by the program.


try:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor

    @triton.jit
    def GATE(both, out, size, width, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        there = at < size
        left = at // width * 2 * width + at % width
        value = tl.load(both + left, mask=there).to(tl.float32)
        gate = tl.load(both + left + width, mask=there).to(tl.float32)
        product = value * (0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476)))
        tl.store(out + at, product.to(tl.float16), mask=there)

    @triton.jit
    def PRODUCT(
        states, weights, out, rows, width, TOTAL: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
        DEPTH: tl.constexpr,
    ):  # fmt: skip
        across, down = tl.cdiv(width, WIDTH), tl.cdiv(rows, ROWS)
        for tile in tl.range(tl.program_id(0), across * down, tl.num_programs(0), flatten=True):
            band = tile // (8 * across)
            high = tl.minimum(down - band * 8, 8)
            row = (band * 8 + tile % (8 * across) % high) * ROWS
            column = (tile % (8 * across) // high) * WIDTH
            sums = tl.zeros((ROWS, WIDTH), tl.float32)
            for start in range(0, TOTAL, DEPTH):
                sums = tl.dot(states.load([row, start]), weights.load([column, start]).T, sums)
            left, right = sums.to(tl.float16).reshape(ROWS, 2, WIDTH // 2).permute(0, 2, 1).split()
            out.store([row, column], left)
            out.store([row, column + WIDTH // 2], right)
except ImportError:  # the ways that need them fail, the others do not
    GATE = PRODUCT = None


def product(states: Tensor, weights: Tensor, rows: int, width: int, warps: int, stages: int) -> Tensor:
    """A plain product by Triton, through descriptors, its programs taking tiles in turn."""
    count, wide = states.shape[0], weights.shape[0]
    out = states.new_empty(count, wide)
    PRODUCT[(min(132, triton.cdiv(count, rows) * triton.cdiv(wide, width)),)](
        TensorDescriptor.from_tensor(states, [rows, 64]),
        TensorDescriptor.from_tensor(weights, [width, 64]),
        TensorDescriptor.from_tensor(out, [rows, width // 2]),
        count,
        wide,
        states.shape[1],
        rows,
        width,
        64,
        num_warps=warps,
        num_stages=stages,
    )
    return out


def relative(got: Tensor, expected: Tensor) -> float:
    """Relative error."""
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


def microseconds(call: Call, sets: int) -> float:
    """Median time of one call in replays of a CUDA graph that calls every set."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(sets):
            call(i)
    torch.cuda.synchronize()
    graph, rounds = torch.cuda.CUDAGraph(), max(1, 24 // sets)
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for i in range(sets):
                call(i)
    graph.replay()
    times = []
    for _ in range(9):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / rounds / sets)
    return sorted(times)[len(times) // 2]


def kernels_of(call: Call) -> int | None:
    """How many kernels, copies and memsets a call sends; None when they cannot be counted."""
    try:
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        with torch.cuda.graph(graph):
            call(0)
        maps = Path("/proc/self/maps").read_text().split()
        runtime = ctypes.CDLL(next(word for word in maps if "libcudart.so" in word))
        count = ctypes.c_size_t()
        failed = runtime.cudaGraphGetNodes(ctypes.c_void_p(graph.raw_cuda_graph()), None, ctypes.byref(count))
        return None if failed else count.value
    except Exception:
        return None


@torch.no_grad()
def measure(group: Group, warm: bool) -> None:
    """Fill in the rows of a group, or only run each way once; a way that fails is a row with its reason."""
    expected = None
    for name, call in group.ways.items():
        row: dict[str, Any] = {"part": group.part, "group": group.name, "way": name, "times": group.times}
        try:
            out = call(0)
            torch.cuda.synchronize()
            if not warm:
                if group.expected is not None:
                    expected = group.expected(0) if expected is None else expected
                    if isinstance(out, Tensor) and out.shape == expected.shape:
                        row["error"] = relative(out, expected)
                row["kernels"] = kernels_of(call)
                row["us"] = microseconds(call, group.sets)
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"[:160]
            with contextlib.suppress(Exception):
                torch.cuda.synchronize()
        group.rows.append(row)
    first = group.rows[0].get("us")
    for row in group.rows:
        if "us" in row:
            row["ms"] = row["us"] * group.times / 1e3
            row["tflops"] = group.flop / row["us"] / 1e6
            row["saved_ms"] = (first - row["us"]) * group.times / 1e3 if first else None


def warm_caches(parts: list[str]) -> None:
    """Compile everything side by side in processes of their own, whose caches this one then reads."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--warm", "--parts"]
    running = [subprocess.Popen([*command, part]) for part in parts if part not in ("conv", "autotune")]
    for process in running:
        process.wait()
    print(f"compiled in {time.perf_counter() - began:.0f} s", flush=True)


def ceilings() -> None:
    """What the GPU can do at all."""
    a, b, x = normal(8192, 8192), normal(8192, 8192), normal(2**30)
    y, eight = torch.empty_like(x), a.to(EIGHT)
    one = torch.ones((), device=DEVICE)
    half = microseconds(lambda i: a @ b, 2)
    byte = microseconds(lambda i: torch._scaled_mm(eight, eight.t(), one, one, out_dtype=HALF, use_fast_accum=True), 2)
    copy = microseconds(lambda i: y.copy_(x), 2)
    flop = 2 * 8192**3 / 1e6
    print(
        f"ceilings: fp16 {flop / half:.0f} TFLOP/s, fp8 {flop / byte:.0f} TFLOP/s, copy {2**32 / copy / 1e6:.2f} TB/s"
    )


def table(rows: list[dict[str, Any]], heading: bool = True) -> str:
    """One line for every way."""
    titles = f"{'':30} {'µs':>7} {'TF/s':>5} {'error':>7} {'calls':>5} {'ms':>6} {'saved':>6}"
    lines = [titles] if heading else []
    group = None
    for row in rows:
        if (row["part"], row["group"]) != group:
            group = (row["part"], row["group"])
            lines.append(f"{row['part']}: {row['group']}, {row['times']} times")
        if "us" not in row:
            lines.append(f"  {row['way']:28} {row.get('failed', 'nothing')}")
            continue
        error = f"{row['error']:7.1e}" if "error" in row else f"{'':7}"
        lines.append(
            f"  {row['way']:28} {row['us']:7.1f} {row['tflops']:5.0f} {error} {row['kernels'] or 0:5}"
            f" {row['ms']:6.2f} {row['saved_ms'] or 0:+6.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure the chosen parts until the time is up, print each group as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="cross,self,linear,geglu,conv", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--limit", type=float, default=80, help="seconds after which no further group begins")
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    began, parts, rows = time.perf_counter(), chosen.parts.split(","), []
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # or the convolutions in fp32 are none
    if not chosen.warm:
        print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}", flush=True)
        warm_caches(parts)
        ceilings()
    for part in parts:
        try:
            for group in PARTS[part]():
                if time.perf_counter() - began > chosen.limit:
                    print(f"out of time before {part}: {group.name}")
                    break
                measure(group, chosen.warm)
                rows += group.rows
                if not chosen.warm:
                    print(table(group.rows, heading=not rows[len(group.rows) :]), flush=True)
        except Exception as error:
            print(f"{part} ended early: {type(error).__name__}: {error}", flush=True)
        if not chosen.warm:
            print(f"[{time.perf_counter() - began:5.0f} s] {part}", flush=True)
            if "OUT" in os.environ:
                Path(os.environ["OUT"], "pieces.json").write_text(json.dumps(rows, indent=1))
    if "OUT" in os.environ and not chosen.warm:
        Path(os.environ["OUT"], "pieces.txt").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
