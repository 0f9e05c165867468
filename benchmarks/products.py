"""Whether cuBLASLt's own first choice is its fastest, for the products of SDXL's transformer blocks.

    python benchmarks/products.py [--most 64] [--fp8]

Each product is timed through PyTorch, then by every algorithm that cuBLASLt's heuristic offers: with a bias, and with
the sum of what was there before (beta 1) where a block adds its result to the states. Calls run one behind the other
in a CUDA graph, over several sets of buffers. Prints one line a product; a JSON file goes to $OUT when that is set.
"""

import argparse
import ctypes
import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.pieces_common import microseconds, relative  # noqa: E402
from benchmarks.results import save  # noqa: E402

HALF, EIGHT = torch.float16, torch.float8_e4m3fn
TYPES = {HALF: 2, torch.bfloat16: 14, EIGHT: 28, torch.float32: 0}  # cudaDataType
COMPUTE_32F, REAL_32F = 68, 0
# cublasLtMatmulDescAttributes_t
TRANSPOSE_A, EPILOGUE, BIAS, SCALE_A, SCALE_B, FAST, MODE_A, MODE_B = 3, 7, 8, 17, 18, 25, 31, 32
EPILOGUE_BIAS, OUTER_VECTORS, WORKSPACE = 4, 3, 1
SETS = 4


@dataclass(frozen=True)
class Product:
    """A linear layer: name, rows of states, width given and made, times in a step, and whether it adds to what is."""

    name: str
    rows: int
    given: int
    out: int
    times: int
    bias: bool
    adds: bool


PRODUCTS = tuple(
    Product(f"{width} {name}", rows, given, out, times * blocks, bias, adds)
    for width, rows, blocks in ((640, 8192, 10), (1280, 2048, 60))
    for name, given, out, times, bias, adds in (
        ("qkv", width, 3 * width, 1, False, False),
        ("to_q", width, width, 1, False, False),
        ("to_out", width, width, 2, True, True),
        ("ff in", width, 8 * width, 1, True, False),
        ("ff out", 4 * width, width, 1, True, True),
    )
)


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


@cache
def library() -> ctypes.CDLL:
    """The cuBLASLt that torch has loaded."""
    torch.ones(16, 16, device="cuda", dtype=HALF) @ torch.ones(16, 16, device="cuda", dtype=HALF)
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libcublasLt" in line}
    return ctypes.CDLL(loaded.pop())


@cache
def handle() -> ctypes.c_void_p:
    """cuBLASLt's own."""
    made = ctypes.c_void_p()
    check(library().cublasLtCreate(ctypes.byref(made)))
    return made


def check(status: int) -> None:
    """Raise when cuBLASLt refuses."""
    if status:
        raise RuntimeError(f"cuBLASLt says {status}")


class Call:
    """out = states x weight (+ bias) (+ what was in `before`) by cuBLASLt."""

    def __init__(self, sets: list[dict[str, Tensor]], workspace: Tensor):
        first = sets[0]
        (rows, given), out = first["states"].shape, first["weight"].shape[0]
        self.sets, self.workspace = sets, workspace
        self.description = ctypes.c_void_p()
        check(library().cublasLtMatmulDescCreate(ctypes.byref(self.description), COMPUTE_32F, REAL_32F))
        self._set(TRANSPOSE_A, ctypes.c_int(1))
        if "bias" in first:
            self._set(EPILOGUE, ctypes.c_int(EPILOGUE_BIAS))
        if "size" in first:
            self._set(FAST, ctypes.c_int8(1))
            if first["size"].numel() > 1:
                self._set(MODE_A, ctypes.c_int(OUTER_VECTORS))
                self._set(MODE_B, ctypes.c_int(OUTER_VECTORS))
        kind = TYPES[first["states"].dtype]
        self.a, self.b = self._layout(kind, given, out), self._layout(kind, given, rows)
        self.d = self._layout(TYPES[HALF], out, rows)
        self.alpha, self.beta = ctypes.c_float(1), ctypes.c_float(1 if "before" in first else 0)

    def _set(self, attribute: int, value: Any) -> None:
        check(
            library().cublasLtMatmulDescSetAttribute(
                self.description, attribute, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))
            )
        )

    def _layout(self, kind: int, rows: int, columns: int) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        check(
            library().cublasLtMatrixLayoutCreate(
                ctypes.byref(made), kind, ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(rows)
            )
        )
        return made

    def _point(self, one: dict[str, Tensor]) -> None:
        for name, attribute in (("bias", BIAS), ("weight_size", SCALE_A), ("size", SCALE_B)):
            if name in one:
                self._set(attribute, ctypes.c_void_p(one[name].data_ptr()))

    def algorithms(self, most: int) -> list[Heuristic]:
        """What cuBLASLt offers, its favourite first."""
        self._point(self.sets[0])
        preference, limit = ctypes.c_void_p(), ctypes.c_size_t(self.workspace.numel())
        check(library().cublasLtMatmulPreferenceCreate(ctypes.byref(preference)))
        check(
            library().cublasLtMatmulPreferenceSetAttribute(
                preference, WORKSPACE, ctypes.byref(limit), ctypes.c_size_t(ctypes.sizeof(limit))
            )
        )
        found, count = (Heuristic * most)(), ctypes.c_int()
        check(
            library().cublasLtMatmulAlgoGetHeuristic(
                handle(), self.description, self.a, self.b, self.d, self.d, preference, most, found, ctypes.byref(count)
            )
        )
        return list(found[: count.value])

    def __call__(self, algorithm: Heuristic, number: int) -> Tensor:
        one = self.sets[number]
        self._point(one)
        before = one.get("before", one["out"])
        check(
            library().cublasLtMatmul(
                handle(),
                self.description,
                ctypes.byref(self.alpha),
                ctypes.c_void_p(one["weight"].data_ptr()),
                self.a,
                ctypes.c_void_p(one["states"].data_ptr()),
                self.b,
                ctypes.byref(self.beta),
                ctypes.c_void_p(before.data_ptr()),
                self.d,
                ctypes.c_void_p(one["out"].data_ptr()),
                self.d,
                algorithm.algorithm,
                ctypes.c_void_p(self.workspace.data_ptr()),
                ctypes.c_size_t(self.workspace.numel()),
                ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
            )
        )
        return one["out"]


def inputs(product: Product, bias: bool, adds: bool, fp8: str) -> list[dict[str, Tensor]]:
    """Several sets of buffers with random numbers."""
    sets = []
    for _ in range(SETS):
        one = {
            "states": torch.randn(product.rows, product.given, device="cuda", dtype=HALF),
            "weight": torch.randn(product.out, product.given, device="cuda", dtype=HALF) * product.given**-0.5,
            "out": torch.full((product.rows, product.out), float("nan"), device="cuda", dtype=HALF),
        }
        if bias:
            one["bias"] = torch.randn(product.out, device="cuda", dtype=HALF)
        if adds:
            one["before"] = torch.randn(product.rows, product.out, device="cuda", dtype=HALF)
        if fp8:
            one["exact states"], one["exact weight"] = one["states"], one["weight"]
            one["states"], one["size"] = quantize(one["states"], fp8)
            one["weight"], one["weight_size"] = quantize(one["weight"], fp8)
        sets.append(one)
    return sets


def quantize(wide: Tensor, how: str) -> tuple[Tensor, Tensor]:
    """Numbers in fp8, and what each row, or all of them, is to be multiplied by."""
    largest = wide.float().abs().amax(-1) if how == "rows" else wide.float().abs().amax()
    size = (largest / 448).contiguous()
    return (wide.float() / (size[:, None] if how == "rows" else size)).to(EIGHT), size


def expected(one: dict[str, Tensor]) -> Tensor:
    """What a product is, in fp32."""
    states, weight = one.get("exact states", one["states"]).float(), one.get("exact weight", one["weight"]).float()
    out = states @ weight.t()
    if "bias" in one:
        out += one["bias"].float()
    if "before" in one:
        out += one["before"].float()
    return out


def measure(product: Product, bias: bool, adds: bool, fp8: str, most: int, workspace: Tensor) -> dict[str, Any]:
    """Times of one product, µs: PyTorch's, of cuBLASLt's first choice, and of its fastest."""
    sets = inputs(product, bias, adds, fp8)
    figures: dict[str, Any] = {"product": product.name, "bias": bias, "adds": adds, "fp8": fp8, "times": product.times}
    if not fp8 and not adds:
        figures["torch"] = microseconds(
            lambda n: F.linear(*(sets[n].get(name) for name in ("states", "weight", "bias"))), SETS
        )
    elif fp8 == "rows" and not adds:
        figures["torch"] = microseconds(lambda n: scaled(sets[n]), SETS)
    call = Call(sets, workspace)
    try:
        offered = call.algorithms(most)
    except RuntimeError as error:
        return {**figures, "failed": str(error)}
    times = []
    for algorithm in offered:
        try:
            times.append(microseconds(lambda n, algorithm=algorithm: call(algorithm, n), SETS))
        except RuntimeError:
            torch.cuda.synchronize()
            times.append(float("inf"))
    best = min(range(len(times)), key=times.__getitem__)
    sets[0]["out"].fill_(float("nan"))
    error = relative(call(offered[best], 0), expected(sets[0]))
    figures |= {"offered": len(times), "first": times[0], "fastest": times[best], "which": best, "all": times}
    return {**figures, "error": error}


def scaled(one: dict[str, Tensor]) -> Tensor:
    """The product in fp8 by PyTorch."""
    return torch._scaled_mm(
        one["states"],
        one["weight"].t(),
        one["size"][:, None],
        one["weight_size"][None],
        bias=one.get("bias"),
        out_dtype=HALF,
        use_fast_accum=True,
    )


def main() -> None:
    """Measure all products, print a short table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=64, help="algorithms to try for each product")
    parser.add_argument("--fp8", action="store_true", help="products in fp8 too")
    chosen = parser.parse_args()
    workspace = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    rows, saved = [], {"torch": 0.0, "first": 0.0, "fastest": 0.0}
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}; µs a product")
    print(f"{'product':12} {'':10} {'torch':>7} {'first':>7} {'fastest':>7} {'which':>9} {'error':>8}", flush=True)
    for product in PRODUCTS:
        ways = [(product.bias, False, "")]
        ways += [(True, True, "")] if product.adds else []
        ways += [(product.bias, False, "one"), (product.bias, False, "rows")] if chosen.fp8 else []
        for bias, adds, fp8 in ways:
            row = measure(product, bias, adds, fp8, chosen.most, workspace)
            rows.append(row)
            name = f"{product.name:12} {'+bias' * bias}{'+sum' * adds}{' ' + fp8 if fp8 else ''}"
            if "failed" in row:
                print(f"{name:23} {row['failed']}", flush=True)
                continue
            print(
                f"{name:23} {row.get('torch', float('nan')):7.2f} {row['first']:7.2f} {row['fastest']:7.2f}"
                f" {row['which']:4} of {row['offered']:2} {row['error']:8.1e}",
                flush=True,
            )
            if not fp8 and not adds:
                saved = {key: saved[key] + row[key] * product.times / 1e3 for key in saved}
        save("products.json", json.dumps(rows, indent=1))
    print("all half-precision products of a step, ms: " + ", ".join(f"{key} {ms:.2f}" for key, ms in saved.items()))


if __name__ == "__main__":
    main()
