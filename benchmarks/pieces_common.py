"""What all pieces share: the shapes of SDXL, random numbers, and the time of a call on the GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LEVELS = [(4096, 10, 10), (1024, 20, 60)]  # pixels, heads of 64, layers
DEVICE = "cuda"
HALF = torch.float16
FP8 = torch.float8_e4m3fn
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
