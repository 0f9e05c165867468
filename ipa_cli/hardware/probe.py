"""What this machine is, as far as a compiled graph depends on it, without importing torch."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from ipa_cli.hardware import gpu, packages
from ipa_cli.hardware.gpu import Gpu

CPU = "cpu"
NONE = "none"
SECONDS = 20.0  # a driver with many GPUs that has to be loaded first takes more than ten
# What `-march=native` can turn into instructions; flags about security or virtual machines come and go with the kernel.
_EXTENSIONS = re.compile(
    r"(pni|s?sse\w*|avx\w*|amx\w*|fma\w*|f16c|bmi\d|adx|abm|popcnt|movbe|aes|sha\w*|gfni|vaes|v?pclmul\w*|rdpid|clwb"
    r"|neon|asimd\w*|sve\w*|sme(?!p)\w*|i8mm|bf16|fp|fphp|fcma|jscvt|lrcpc|atomics|crc32|pmull)"
)


@dataclass(frozen=True)
class Machine:
    """`gpu` is None where none is seen; `versions` holds None for packages that are not installed."""

    gpu: Gpu | None
    instruction_set: tuple[str, ...]
    libc: str
    cuda: str | None
    versions: Mapping[str, str | None]

    def factors(self, gpu: str) -> dict[str, str | list[str]]:
        """What of this machine changes the code of a graph for `gpu`, a slug or "cpu"; package versions come on top.

        The instruction set counts on a GPU too: the code that launches kernels is built for the host's CPU.
        """
        found: dict[str, str | list[str]] = {"instruction set": list(self.instruction_set), "libc": self.libc}
        if gpu != CPU:
            here = self.gpu
            found["gpu name"] = here.name if here else NONE
            found["compute capability"] = here.capability if here else NONE
            found["driver"] = here.driver.split(".")[0] if here else NONE
            found["cuda"] = self.cuda or NONE
        return found


@lru_cache
def machine(index: int = 0) -> Machine:
    """This machine with its `index`-th visible GPU; looked at once per process."""
    return Machine(
        gpu=visible_gpu(index),
        instruction_set=instruction_set(),
        libc=_libc(),
        cuda=_cuda_of_torch(),
        versions=packages.installed(),
    )


def visible_gpu(index: int = 0) -> Gpu | None:
    """The `index`-th GPU that CUDA_VISIBLE_DEVICES leaves visible; None when there is none, or the driver fails."""
    gpus = gpu.ask(SECONDS).gpus
    return gpus[index] if index < len(gpus) else None


def instruction_set() -> tuple[str, ...]:
    """The architecture and the extensions of its instruction set, sorted: ("x86_64", "avx2", "avx512f", …)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    found = {flag for flag in (flags[1].split() if flags else ()) if _EXTENSIONS.fullmatch(flag)}
    return (platform.machine(), *sorted(found))


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or NONE
    except (AttributeError, ValueError, OSError):  # another C library
        return "-".join(platform.libc_ver()).strip("-") or platform.system().lower()


def _cuda_of_torch() -> str | None:
    """The CUDA version the installed torch was built for, read from its `torch/version.py`."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None
