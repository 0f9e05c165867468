"""NVIDIA's driver, its GPUs, and Triton on them; nothing here imports torch."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ipa_cli.doctor.check import Check
from ipa_cli.hardware import gpu
from ipa_cli.hardware.devices import AMPERE
from ipa_cli.hardware.gpu import Driver, Gpu
from ipa_cli.system import child

LITTLE = 8 << 30  # bytes
SECONDS = 5.0  # for the driver to answer
LIBCUDA = "libcuda.so.1"
KERNEL = Path(__file__).with_name("triton_kernel.py")


def check_driver(driver: Driver, torch_cuda: str | None, asked: bool) -> Check:
    """Does the driver answer, and is it new enough for torch's CUDA?"""
    name = "NVIDIA driver"
    if driver.problem:
        return Check(name, "failure", driver.problem, "restart the machine, or install the driver again", asked)
    if driver.version is None and gpu.is_installed(LIBCUDA):
        advice = "in a container, let NVIDIA_DRIVER_CAPABILITIES be compute,utility"
        return Check(name, "failure", f"{LIBCUDA} is here, but {gpu.LIBRARY} is missing", advice, asked)
    if driver.version is None:
        advice = "install it, or choose --device cpu" if asked else ""
        return Check(name, "failure" if asked else "skipped", "none is installed", advice, asked)
    newest = f"up to CUDA {driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda else f"{LIBCUDA} was not found"
    found = f"{driver.version}, {newest}"
    if torch_cuda and driver.cuda and int(torch_cuda.split(".")[0]) > driver.cuda[0]:
        return Check(
            name,
            "failure",
            f"{found}: too old for this torch, which is built for CUDA {torch_cuda}",
            "update the driver, or install a torch for an older CUDA: https://pytorch.org/get-started/locally",
            asked,
        )
    return Check(name, "ok", found, "", asked)


def check_gpus(driver: Driver, dtype: str = "auto") -> list[Check]:
    """Each GPU with its memory and compute capability, and whether it computes in this dtype."""
    if driver.hidden:
        return [Check("GPU", "warning", "CUDA_VISIBLE_DEVICES hides every GPU", "`unset CUDA_VISIBLE_DEVICES`")]
    if not driver.gpus:
        return [Check("GPU", "skipped", "no NVIDIA GPU was found, and drawing on the CPU is slow")]
    return [_gpu(number, found, dtype) for number, found in enumerate(driver.gpus)]


def check_triton(driver: Driver, version: str | None, asked: bool, deep: bool) -> Check:
    """Is Triton installed; with `deep`, does a tiny kernel compile and compute the right thing?"""
    if not driver.gpus:
        return Check("Triton", "skipped", "it needs a GPU")
    if version is None:
        return Check("Triton", "failure", "not installed, so nothing compiles on a GPU", "`pip install triton`", asked)
    if not deep:
        return Check("Triton", "ok", f"{version} (--deep runs a kernel)", "", asked)
    with tempfile.TemporaryDirectory(prefix="ipa-doctor-") as empty:  # a cached kernel would compile nothing
        ended = child.script(KERNEL, 120, environ={"TRITON_CACHE_DIR": empty})
    if ended.code != 0:
        advice = "Triton needs a C compiler and Python's headers: `apt install gcc python3-dev`"
        return Check("Triton", "failure", f"{version}: a tiny kernel fails: {ended.why}", advice, asked)
    return Check("Triton", "ok", f"{version}: a tiny kernel compiles and runs", "", asked)


def _gpu(number: int, found: Gpu, dtype: str) -> Check:
    name = f"GPU {number}"
    capability = f"compute capability {found.capability}"
    if dtype == "bfloat16" and int(found.capability.partition(".")[0]) < AMPERE[0]:
        advice = "`--dtype float16`, or set it: `ipa config set dtype float16`"
        return Check(name, "warning", f"{found.name}, {capability}: bfloat16 is slow without hardware for it", advice)
    if found.free is None or found.total is None:
        return Check(name, "ok", f"{found.name}, {capability}")
    memory = f"{found.free / 2**30:.1f} of {found.total / 2**30:.1f} GiB free"
    text = f"{found.name}, {memory}, {capability}"
    if found.free < LITTLE:
        return Check(name, "warning", f"{text}: little for SDXL", "`--offload model`, or end what else uses this GPU")
    return Check(name, "ok", text)
