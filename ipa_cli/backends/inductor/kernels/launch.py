"""Launching our Triton kernels so that torch traces them into the graph. Imported only where Triton is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
import triton
from torch._higher_order_ops import triton_kernel_wrap as wrap
from torch.library import wrap_triton


def launchable(kernel: Any) -> Any:
    """A kernel as tracers see it; what Triton's interpreter makes of one is called as it is."""
    return wrap_triton(kernel) if isinstance(kernel, triton.JITFunction) else kernel


def launch_tiles(
    kernel: Any, tiles: int, blocks: Mapping[str, Sequence[int]], given: dict[str, Any], warps: int, stages: int
) -> None:
    """Launch a kernel whose programs take tiles in turn; it reads some tensors through descriptors (TMA) of `blocks`.

    torch's `wrap_triton` traces no descriptors outside Dynamo; what it would put into the graph takes them.
    """
    wrap.triton_kernel_wrapper_mutation(
        kernel_idx=wrap.kernel_side_table.add_kernel(_configured(kernel, warps, stages)),
        constant_args_idx=wrap.kernel_side_table.add_constant_args({}),
        grid=[(min(tiles, multiprocessors(given["out"].device)), 1, 1)],
        tma_descriptor_metadata={name: wrap.create_tma_stable_metadata(list(block)) for name, block in blocks.items()},
        kwargs=given,
    )


@cache
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def _configured(kernel: Any, warps: int, stages: int) -> Any:
    return triton.autotune([triton.Config({}, num_warps=warps, num_stages=stages)], key=[])(kernel)
