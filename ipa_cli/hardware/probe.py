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

from ipa_cli.hardware import packages
from ipa_cli.system import child

CPU = "cpu"
NONE = "none"
# What `-march=native` can turn into instructions; flags about security or virtual machines come and go with the kernel.
_EXTENSIONS = re.compile(
    r"(pni|s?sse\w*|avx\w*|amx\w*|fma\w*|f16c|bmi\d|adx|abm|popcnt|movbe|aes|sha\w*|gfni|vaes|v?pclmul\w*|rdpid|clwb"
    r"|neon|asimd\w*|sve\w*|sme(?!p)\w*|i8mm|bf16|fp|fphp|fcma|jscvt|lrcpc|atomics|crc32|pmull)"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU as `nvidia-smi` tells it."""

    name: str
    capability: str
    driver: str

    @property
    def slug(self) -> str:
        """For example "nvidia-h200-sm90"."""
        return slug(f"{self.name}-sm{self.capability.replace('.', '')}")


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
        gpu=gpu(index),
        instruction_set=instruction_set(),
        libc=_libc(),
        cuda=_cuda_of_torch(),
        versions=packages.installed(),
    )


def gpu(index: int = 0) -> Gpu | None:
    """The `index`-th GPU that CUDA_VISIBLE_DEVICES leaves visible, from `nvidia-smi`; None when there is none.

    On a machine of unlike GPUs CUDA counts the fastest first and `nvidia-smi` the first on the bus, unless
    CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    program = child.find("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=uuid,compute_cap,driver_version,name", "--format=csv,noheader"]
    try:
        ended = child.run(query, 20)
    except OSError:
        return None
    if ended.code != 0:  # a driver that does not answer is no GPU to use
        return None
    return select(ended.out, os.environ.get("CUDA_VISIBLE_DEVICES"), index)


def select(said: str, visible: str | None, index: int) -> Gpu | None:
    """Pick a GPU from `nvidia-smi`'s lines "uuid, capability, driver, name" by CUDA's rules of visibility."""
    lines = [line.split(", ", 3) for line in said.splitlines()]
    rows = [line for line in lines if len(line) == 4]
    if visible is not None:
        rows = _visible(rows, visible)
    if index >= len(rows):
        return None
    _, capability, driver, name = rows[index]
    return Gpu(name.strip(), capability, driver)


def instruction_set() -> tuple[str, ...]:
    """The architecture and the extensions of its instruction set, sorted: ("x86_64", "avx2", "avx512f", …)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    found = {flag for flag in (flags[1].split() if flags else ()) if _EXTENSIONS.fullmatch(flag)}
    return (platform.machine(), *sorted(found))


def _visible(rows: list[list[str]], visible: str) -> list[list[str]]:
    """As CUDA does: numbers or beginnings of UUIDs; the first that names nothing ends the list."""
    chosen = []
    for word in visible.split(","):
        word = word.strip()
        if word.startswith("MIG-"):  # a slice; nvidia-smi lists the whole GPU
            row = rows[0] if rows else None
        elif word.isdecimal():
            row = rows[int(word)] if int(word) < len(rows) else None
        else:
            row = next((row for row in rows if word and row[0].startswith(word)), None)
        if row is None:
            break
        chosen.append(row)
    return chosen


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


def slug(text: str) -> str:
    """`text` as a folder name that is safe everywhere: "NVIDIA H200" becomes "nvidia-h200"."""
    return re.sub(r"[^a-z0-9_.]+", "-", text.lower()).strip("-.")[:80].rstrip("-.") or "unknown"
