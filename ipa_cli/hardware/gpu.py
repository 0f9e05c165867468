"""NVIDIA's driver and GPUs as NVML reports them, the library that `nvidia-smi` is made from; no torch is needed.

NVML is asked in a process of its own: where the driver is in trouble its calls block or crash, and a blocked call can
be given up only together with its process.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ipa_cli.system import child

LIBRARY = "libnvidia-ml.so.1"
SCRIPT = Path(__file__).with_name("nvml.py")


@dataclass(frozen=True)
class Gpu:
    """One GPU: compute capability such as "9.0"; memory in bytes, None where the driver does not report it."""

    name: str
    capability: str
    driver: str
    uuid: str = ""
    free: int | None = None
    total: int | None = None

    @property
    def slug(self) -> str:
        """For example "nvidia-h200-sm90"."""
        return slug(f"{self.name}-sm{self.capability.replace('.', '')}")


@dataclass(frozen=True)
class Driver:
    """The driver, and the GPUs that CUDA_VISIBLE_DEVICES leaves visible, in CUDA's order.

    `version` is None where no driver answers, `cuda` the newest CUDA version that it runs, as (major, minor); `hidden`
    is true when there are GPUs and none is visible; `problem` tells why a driver does not answer.
    """

    version: str | None = None
    cuda: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()
    hidden: bool = False
    problem: str | None = None


def ask(seconds: float) -> Driver:
    """Ask NVML for at most `seconds`; without an answer the driver has no GPUs and a `problem`. Raises nothing.

    A driver that nobody keeps loaded (persistence mode) takes seconds for its first answer.
    """
    if not is_installed(LIBRARY):
        return Driver()
    try:
        ended = child.script(SCRIPT, seconds)
    except OSError as error:
        return Driver(problem=f"NVML cannot be asked: {error.strerror}")
    if ended.code != 0:
        return Driver(problem=f"NVML does not answer: {ended.why}")
    try:
        return read(ended.out, os.environ.get("CUDA_VISIBLE_DEVICES"))
    except ValueError:
        return Driver(problem=f"NVML's answer is not understood: {ended.out[:80]!r}")


def is_installed(library: str) -> bool:
    """Whether the system's loader finds a library; takes under a millisecond where it does not."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def read(text: str, variable: str | None) -> Driver:
    """The driver from the JSON of `nvml.py`, its GPUs by the value of CUDA_VISIBLE_DEVICES."""
    found = json.loads(text)
    if "problem" in found:
        return Driver(problem=f"NVML: {found['problem']}")
    version, cuda = found["version"], found["cuda"]
    every = [Gpu(driver=version, **about) for about in found["gpus"]]
    gpus = every if variable is None else visible(every, variable)
    return Driver(
        version=version,
        cuda=(cuda // 1000, cuda % 1000 // 10) if cuda else None,
        gpus=tuple(gpus),
        hidden=bool(every and not gpus),
    )


def visible(gpus: Sequence[Gpu], variable: str) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, by number or the beginning of a UUID; the first unknown one ends it.

    On a machine of unlike GPUs CUDA counts the fastest first and NVML the first on the bus, unless
    CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    chosen = []
    for word in map(str.strip, variable.split(",")):
        if word.startswith("MIG-"):  # a slice; NVML lists the whole GPU
            found = next(iter(gpus), None)
        elif word.isdecimal():
            found = gpus[int(word)] if int(word) < len(gpus) else None
        else:
            found = next((gpu for gpu in gpus if word and gpu.uuid.startswith(word)), None)
        if found is None:
            break
        chosen.append(found)
    return chosen


def slug(text: str) -> str:
    """`text` as a folder name that is safe everywhere: "NVIDIA H200" becomes "nvidia-h200"."""
    return re.sub(r"[^a-z0-9_.]+", "-", text.lower()).strip("-.")[:80].rstrip("-.") or "unknown"
