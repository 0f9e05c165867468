"""Measure time and memory; on a GPU steps are timed by events of the device."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class StepClock:
    """Marks between steps; on a GPU by events, so that measuring does not slow what is measured.

    No more than `ahead` steps are sent to a GPU before one is done; None is without a limit.
    """

    def __init__(self, device: torch.device, ahead: int | None = 2):
        self._device, self._ahead = device, ahead
        self._marks: list[Any] = []

    def mark(self) -> None:
        if self._device.type == "cuda":
            import torch

            event = torch.cuda.Event(enable_timing=True, blocking=True)
            event.record(torch.cuda.current_stream(self._device))
            self._marks.append(event)
            # Two steps in flight keep the device busy; more would let progress and Ctrl-C run far ahead of it.
            if self._ahead is not None and len(self._marks) > self._ahead:
                self._marks[-1 - self._ahead].synchronize()
        else:
            self._marks.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """From the first mark to the last, which on a GPU is waited for."""
        if len(self._marks) < 2:
            return 0.0
        if self._device.type == "cuda":
            self._marks[-1].synchronize()
            return self._marks[0].elapsed_time(self._marks[-1]) / 1e3
        return self._marks[-1] - self._marks[0]


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type != "cpu":
        import torch

        getattr(torch, device.type).synchronize(*([device] if device.type == "cuda" else []))


def memory(device: torch.device) -> dict[str, float]:
    """`peak_gib`, and on a GPU what was taken from it at most, with the memory of CUDA graphs: `reserved_gib`."""
    if device.type != "cuda":
        return {"peak_gib": peak_gib(device)}
    import torch

    return {"peak_gib": peak_gib(device), "reserved_gib": torch.cuda.max_memory_reserved(device) / 2**30}


def peak_gib(device: torch.device) -> float:
    """Most memory held so far, in GiB: the device's allocator on a GPU, the whole process on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
