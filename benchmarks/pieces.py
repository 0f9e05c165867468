"""How the pieces of one SDXL step do, each in several ways, on one GPU: time, error and what it means for a step.

    python benchmarks/pieces.py [--parts cross,self,linear,geglu,conv] [--limit 80]

Shapes are those of 1024x1024 with guidance (batch 2). Times are of CUDA graphs that repeat a call over several sets of
weights, so that weights come from memory as they do in a UNet and states may lie in the cache. Errors are against
fp32. "saved" is the time of a step against the first line of its group. A JSON file goes to $OUT when that is set.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pieces_attention import cross, self_attention
from pieces_common import (
    DEVICE,
    FP8,
    HALF,
    LEVELS,
    Group,
    compiled,
    kernels_of,
    microseconds,
    normal,
    relative,
    weight,
)
from pieces_convolutions import CONVS, conv, conv_inputs
from pieces_products import gate, geglu, geglu_inputs, linear, norm

from benchmarks.results import save
from ipa_cli.backends.inductor.kernels import feed_forward


def autotune() -> Iterator[Group]:
    """What Inductor finds when it measures products, gates and convolutions itself; slow to compile, so last."""
    best = {"max_autotune": True, "coordinate_descent_tuning": False}
    for pixels, heads, layers in reversed(LEVELS):
        states, weights, bias = geglu_inputs(pixels, heads * 64)
        own = compiled(feed_forward.plain_geglu, options={**best, "max_autotune_gemm_backends": "TRITON"})
        yield Group(
            "autotune",
            f"geglu {pixels} px",
            layers,
            {
                "cuBLAS, pointwise": lambda i, s=states, w=weights, b=bias: gate(F.linear(s[i % 2], w[i], b)),
                "inductor": lambda i, s=states, w=weights, b=bias, own=own: own(s[i % 2], w[i], b),
            },
            lambda i, s=states, w=weights, b=bias: feed_forward.plain_geglu(s[i % 2].float(), w[i].float(), b.float()),
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
    y, q = torch.empty_like(x), a.to(FP8)
    one = torch.ones((), device=DEVICE)
    half = microseconds(lambda i: a @ b, 2)
    byte = microseconds(lambda i: torch._scaled_mm(q, q.t(), one, one, out_dtype=HALF, use_fast_accum=True), 2)
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
            save("pieces.json", json.dumps(rows, indent=1))
    if not chosen.warm:
        save("pieces.txt", table(rows) + "\n")


if __name__ == "__main__":
    main()
