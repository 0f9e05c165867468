"""The GPU that draws beside the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipa_cli.errors import IpaError
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    import torch

ONE = "leave out --gpus to draw on one"


def after(device: torch.device, chosen: bool, reporter: Reporter) -> torch.device:
    """The GPU behind `device`; on a CPU that was `chosen` the same once more, which shows that it works and no more.

    Raises IpaError where there is none that two processes can draw on together.
    """
    import torch
    import torch.distributed as dist

    if not dist.is_available() or (device.type == "cuda" and not dist.is_nccl_available()):
        raise IpaError("this torch cannot work on two GPUs: it comes without NCCL", ONE)
    if device.type == "cpu" and chosen:
        reporter.warn("two processes share the CPU: --gpus 2 makes nothing faster there")
        return device
    if device.type != "cuda":
        raise IpaError(f"--gpus 2 needs two NVIDIA GPUs, and this would run on {device.type}", ONE)
    here, count = device.index or 0, torch.cuda.device_count()
    if here + 1 >= count:
        seen = f"cuda:{here} is the last of {count} that torch sees" if here else f"torch sees {count}"
        raise IpaError(f"there are not two GPUs from cuda:{here} on: {seen}", f"`ipa doctor` lists them; {ONE}")
    names = [torch.cuda.get_device_name(index) for index in (here, here + 1)]
    if any(" MIG " in f" {name} " for name in names):
        raise IpaError("slices of a GPU (MIG) cannot exchange tensors by NCCL", ONE)
    if names[0] != names[1]:
        reporter.warn(f"unlike GPUs, {names[0]} and {names[1]}: each step takes as long as the slower one needs")
    return torch.device("cuda", here + 1)
