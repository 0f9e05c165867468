"""Writes what NVML reports as one JSON object to stdout; `gpu.ask` runs this file as a process of its own."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pynvml


def driver() -> dict[str, Any]:
    """The driver's version, the newest CUDA version it runs, and its GPUs in the order of the PCI bus."""
    pynvml.nvmlInit()
    return {
        "version": pynvml.nvmlSystemGetDriverVersion(),
        "cuda": supported(pynvml.nvmlSystemGetCudaDriverVersion_v2),
        "gpus": [gpu(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(pynvml.nvmlDeviceGetCount())],
    }


def gpu(handle: Any) -> dict[str, Any]:
    memory = supported(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return {
        "name": pynvml.nvmlDeviceGetName(handle),
        "uuid": pynvml.nvmlDeviceGetUUID(handle),
        "capability": "{}.{}".format(*pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
        "free": memory and memory.free,
        "total": memory and memory.total,
    }


def supported(ask: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML answers, None where it cannot: GPUs that share the main memory have none of their own, for example."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError:
        return None


def main() -> None:
    try:
        found = driver()
    except pynvml.NVMLError as error:
        found = {"problem": str(error)}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
