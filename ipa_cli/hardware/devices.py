"""Which device and dtype to use, where weights live while they wait, and out-of-memory in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ipa_cli.config import units
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    import torch


SMALLER = "try --vae-tiling (decoding in less memory), or a smaller --width and --height"


class OutOfMemory(IpaError):
    """The device has too little memory for what was asked."""


def pick_device(name: str) -> torch.device:
    """`auto` takes the first GPU, else the CPU. Raises UsageError for a device that is not here."""
    import torch

    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device '{name}'", "choose auto, cpu, cuda, cuda:N or mps") from None
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = {"cpu": 1, "cuda": gpus, "mps": int(mps)}.get(device.type, 0)
    if (device.index or 0) >= here:
        have = "cpu" + "".join(f", cuda:{n}" for n in range(gpus)) + (", mps" if mps else "")
        raise IpaError(f"there is no device '{name}' here", f"this torch ({torch.__version__}) sees: {have}")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is float16 on a GPU and float32 on a CPU."""
    import torch

    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return getattr(torch, name)


AMPERE = (8, 0)  # the first compute capability that computes in bfloat16


def warn_of_emulation(device: torch.device, dtype: torch.dtype, reporter: Reporter) -> None:
    """Warn of bfloat16 on a GPU that has none: torch then computes it in float32."""
    import torch

    if dtype != torch.bfloat16 or device.type != "cuda" or torch.version.cuda is None:
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < AMPERE:
        reporter.warn(
            f"--dtype bfloat16 is slow on {torch.cuda.get_device_name(device)}, which has no hardware for it "
            f"(compute capability {capability[0]}.{capability[1]}); use --dtype float16"
        )


def sent(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor on `device`; on the way to a GPU nothing waits for what that is at, unlike with `torch.Tensor.to`."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device, dtype)
    return tensor.to(dtype).pin_memory().to(device, non_blocking=True)


def fetched(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in main memory; from a GPU it is there once all that was sent to that before is done."""
    import torch

    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def offload_sequentially(modules: list[Any], device: torch.device) -> None:
    """Keep weights in main memory and bring each layer to `device` only while it runs.

    The weights that a module has beside its layers stay on `device`: a union ControlNet uses them outside of its call.
    """
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_module

    for module in modules:
        cpu_offload(module, execution_device=device)
        if own := [name for name, _ in module.named_parameters(recurse=False)]:
            remove_hook_from_module(module)
            for name in own:
                weight = getattr(module, name)
                weight.data = weight.data.to(device)


@contextmanager
def on_device(device: torch.device, offload: str, *modules: Any) -> Iterator[None]:
    """With model offload, bring whole modules to `device` for a while; otherwise they are already where they run."""
    if offload != "model":
        yield
        return
    import torch

    at_home = [
        (owner, name, weight, weight.data)
        for module in modules
        for owner in module.modules()
        for name, weight in owner.named_parameters(recurse=False)
    ]
    try:
        for module in modules:
            module.to(device)
        yield
    finally:
        # Weights do not change while drawing, so the copies in main memory still hold: making new ones took up to
        # 4.4 s for SDXL's UNet, against 0.9 s to the GPU.
        for owner, name, weight, data in at_home:
            weight.data = data
            setattr(owner, name, weight)
        for module in modules:
            module.to("cpu")  # what else it has
        if device.type == "cuda":
            torch.cuda.empty_cache()


def free_memory() -> int:
    """Bytes of main memory that are free, or can be freed."""
    import psutil

    return int(psutil.virtual_memory().available)


def check_memory(needed: int, what: str) -> None:
    """Raise OutOfMemory where main memory has no room for `needed` bytes: the system would end the process."""
    free = free_memory()
    if needed > free:
        message = f"{what} takes at least {units.size(needed)} of main memory, and {units.size(free)} are free"
        raise OutOfMemory(message, SMALLER)


def warn_of_little_memory(needed: int, reporter: Reporter) -> None:
    """Say so if main memory has no room for `needed` bytes: the system would end the process without a word."""
    free = free_memory()
    if needed > free:
        reporter.warn(
            f"the weights take {units.size(needed)} of main memory, and {units.size(free)} are free: the system may"
            " kill this process; close other programs, or draw on a GPU"
        )


@contextmanager
def translate_out_of_memory(device: torch.device, offload: str, tiled: bool) -> Iterator[None]:
    """Raise OutOfMemory, which says what would fit, in place of torch's own error."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info(device)
        advice = [
            "" if tiled else "--vae-tiling (decoding in less memory)",
            "--offload model (SDXL at 1024x1024 on about 8 GB)" if offload == "none" else "",
            "--offload sequential (slower, on less)" if offload == "model" else "",
            "a smaller --width and --height",
        ]
        raise OutOfMemory(
            f"out of GPU memory on {device}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free",
            "try " + ", ".join(text for text in advice if text),
        ) from error
    except (MemoryError, RuntimeError) as error:
        # torch has a class for CUDA's alone: "DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory"
        if isinstance(error, RuntimeError) and not re.search("can't allocate memory|out of memory", str(error)):
            raise
        raise OutOfMemory(f"out of memory on {device}", SMALLER) from error
