"""Linear layers, the gate of a feed-forward network, and norms, in half precision and fp8, in several ways."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from pieces_common import DEVICE, FP8, HALF, LEVELS, Call, Group, compiled, normal, weight
from torch import Tensor

from ipa_cli.backends.inductor.kernels import feed_forward

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
            return feed_forward.geglu(states[i % 2], weights[i], bias, **blocks)

        def expected(i: int, states=states, weights=weights, bias=bias) -> Tensor:
            return feed_forward.plain_geglu(states[i % 2].float(), weights[i].float(), bias.float())

        def product(i: int, states=states, weights=weights, bias=bias) -> Tensor:
            return F.linear(states[i % 2], weights[i], bias)

        ways: dict[str, Call] = {
            "cuBLAS, pointwise": lambda i, product=product: gate(product(i)),
            "the product alone": product,
        }
        for warps in (4, 8):
            ways[f"cuBLAS, fp8 by rows, {warps}"] = lambda i, p=product, w=warps: feed_forward.gate_quantize(p(i), w)
        for shape in [
            (128, 128, 64, 16, 8, 4),
            (128, 128, 64, 8, 8, 3),
            (128, 64, 64, 8, 4, 3),
            (256, 64, 64, 8, 8, 4),
        ]:
            named = dict(zip(("rows", "width", "depth", "group", "warps", "stages"), shape, strict=True))
            ways["triton " + "x".join(map(str, shape))] = lambda i, f=fused, named=named: f(i, **named)
        quantized = [quantize(x) for x in states], [quantize(x) for x in weights]
        ways["fp8, then by rows"] = lambda i, e=quantized, b=bias: feed_forward.gate_quantize(
            scaled(e[0][i % 2], e[1][i], b, HALF), 8
        )
        ways["fp8 by blocks"] = lambda i, e=quantized, b=bias: feed_forward.geglu_quantize(
            *e[0][i % 2], e[1][i][0], e[1][i][1].t(), b
        )
        yield Group("geglu", f"{pixels} px", layers, ways, expected, 16 * 2 * pixels * (heads * 64) ** 2)


def quantize(states: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in fp8, and each row's scale."""
    states = states.float()
    scale = states.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
    return (states / scale).to(FP8), scale


def scaled(states: tuple[Tensor, Tensor], weights: tuple[Tensor, Tensor], bias: Tensor | None, out: Any) -> Tensor:
    """A product of fp8 rows; scales (rows, 1) twice, or () twice."""
    scale = weights[1].t() if weights[1].ndim else weights[1]
    return torch._scaled_mm(states[0], weights[0].t(), states[1], scale, bias=bias, out_dtype=out, use_fast_accum=True)


def linear() -> Iterator[Group]:
    """Every large linear layer in fp16 and in fp8; quantization is counted apart."""
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
            row_states, row_weights = [quantize(x) for x in states], [quantize(x) for x in weights]
            one = torch.ones((), device=DEVICE)
            all_states = [((x * 64).to(FP8), one / 64) for x in states]
            all_weights = [((x * 64 * given**0.5).to(FP8), one / 64 * given**-0.5) for x in weights]

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


def norm() -> Iterator[Group]:
    """Norms as Inductor writes them, with and without fp8 rows at their end; GroupNorm with SiLU."""
    after = compiled(lambda x, y, w, b: _residual_norm(x, y, w, b))
    after_quantized = compiled(lambda x, y, w, b: (lambda r, n: (r, *quantize(n)))(*_residual_norm(x, y, w, b)))
    just, gate_quantized = compiled(quantize), compiled(lambda x: quantize(_gate(x)))
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
                "fp8 rows": lambda i, given=(x, y, w, b): after_quantized(*given),
                "fp8 rows alone": lambda i, x=x: just(x),
            },
        )
        yield Group(
            "norm",
            f"{pixels} px, gate",
            layers,
            {
                "fp16": lambda i, both=both: gate(both[i % 2]),
                "fp8 rows": lambda i, both=both: gate_quantized(both[i % 2]),
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
