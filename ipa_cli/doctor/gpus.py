"""NVIDIA's driver, its GPUs, and Triton on them; nothing here imports torch."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ipa_cli.doctor.check import Check
from ipa_cli.hardware import probe
from ipa_cli.system import child

LITTLE = 8 << 10  # MiB
FIELDS = "uuid,compute_cap,driver_version,name,memory.free,memory.total"
KERNEL = Path(__file__).with_name("triton_kernel.py")
# By path and not by name: the file's folder must not become a place to import from.
RUN_KERNEL = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"


@dataclass(frozen=True)
class Card:
    """A visible GPU; memory in MiB, None where the driver does not tell."""

    name: str
    capability: str
    free: int | None
    total: int | None


@dataclass(frozen=True)
class Driver:
    """What the driver says; `cuda` is the newest CUDA it can run, `broken` why it does not answer."""

    version: str | None = None
    cuda: tuple[int, int] | None = None
    cards: tuple[Card, ...] = ()
    hidden: bool = False
    broken: str | None = None


def ask() -> Driver:
    """Ask `nvidia-smi` and libcuda; takes at most 2 s."""
    cuda = _cuda_of_driver()
    program = child.find("nvidia-smi")
    if program is None:
        return Driver(cuda=cuda)
    try:
        ended = child.run([program, f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"], 2)
    except OSError as error:
        return Driver(cuda=cuda, broken=f"nvidia-smi cannot be started: {error.strerror}")
    if ended.code != 0:
        return Driver(cuda=cuda, broken=f"nvidia-smi: {ended.out.strip().splitlines()[0] if ended.out else ended.why}")
    return read(ended.out, os.environ.get("CUDA_VISIBLE_DEVICES"), cuda)


def read(said: str, visible: str | None, cuda: tuple[int, int] | None) -> Driver:
    """The driver from `nvidia-smi`'s lines of `FIELDS`; only cards that CUDA_VISIBLE_DEVICES leaves visible."""
    here = _select(said, visible)
    cards = []
    for gpu in here:
        # The last of the fields that `select` knows is the name: it takes the rest of the line with it.
        name, free, total = [*gpu.name.rsplit(", ", 2), "", ""][:3]
        cards.append(Card(name, gpu.capability, _mib(free), _mib(total)))
    everything = here or _select(said, None)
    return Driver(
        version=everything[0].driver if everything else None,
        cuda=cuda,
        cards=tuple(cards),
        hidden=bool(everything and not here),
    )


def check_driver(driver: Driver, torch_cuda: str | None, asked: bool) -> Check:
    """Does the driver answer, and is it new enough for torch's CUDA?"""
    name = "NVIDIA driver"
    if driver.broken:
        return Check(name, "failure", driver.broken, "restart the machine, or install the driver again", asked)
    if driver.version is None and driver.cuda is None:
        advice = "install it, or choose --device cpu" if asked else ""
        return Check(name, "failure" if asked else "skipped", "none is installed", advice, asked)
    newest = f"up to CUDA {driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda else "its libcuda was not found"
    found = f"{driver.version or 'libcuda without nvidia-smi'}, {newest}"
    if torch_cuda and driver.cuda and int(torch_cuda.split(".")[0]) > driver.cuda[0]:
        return Check(
            name,
            "failure",
            f"{found}: too old for this torch, which is built for CUDA {torch_cuda}",
            "update the driver, or install a torch for an older CUDA: https://pytorch.org/get-started/locally",
            asked,
        )
    return Check(name, "ok", found, "", asked)


def check_cards(driver: Driver) -> list[Check]:
    """Each GPU with its memory and compute capability."""
    if driver.hidden:
        return [Check("GPU", "warning", "CUDA_VISIBLE_DEVICES hides every GPU", "`unset CUDA_VISIBLE_DEVICES`")]
    if not driver.cards:
        return [Check("GPU", "skipped", "no NVIDIA GPU is seen: pictures are drawn on the CPU, which is slow")]
    return [_card(number, card) for number, card in enumerate(driver.cards)]


def check_triton(driver: Driver, version: str | None, asked: bool, deep: bool) -> Check:
    """Is Triton installed; with `deep`, does a tiny kernel compile and compute the right thing?"""
    if not driver.cards:
        return Check("Triton", "skipped", "there is no GPU for it")
    if version is None:
        return Check("Triton", "failure", "not installed, so nothing compiles on a GPU", "`pip install triton`", asked)
    if not deep:
        return Check("Triton", "ok", f"{version} (--deep runs a kernel)", "", asked)
    with tempfile.TemporaryDirectory(prefix="ipa-doctor-") as empty:  # a cached kernel would compile nothing
        ended = child.python(RUN_KERNEL, 120, str(KERNEL), environ={"TRITON_CACHE_DIR": empty})
    if ended.code != 0:
        advice = "Triton needs a C compiler and Python's headers: `apt install gcc python3-dev`"
        return Check("Triton", "failure", f"{version}: a tiny kernel fails: {ended.why}", advice, asked)
    return Check("Triton", "ok", f"{version}: a tiny kernel compiles and runs", "", asked)


def _card(number: int, card: Card) -> Check:
    name = f"GPU {number}"
    if card.free is None or card.total is None:
        return Check(name, "ok", f"{card.name}, compute capability {card.capability}")
    memory = f"{card.free / 1024:.1f} of {card.total / 1024:.1f} GiB free"
    found = f"{card.name}, {memory}, compute capability {card.capability}"
    if card.free < LITTLE:
        return Check(name, "warning", f"{found}: little for SDXL", "`--offload model`, or end what else uses this GPU")
    return Check(name, "ok", found)


def _select(said: str, visible: str | None) -> list[probe.Gpu]:
    found: list[probe.Gpu] = []
    while (gpu := probe.select(said, visible, len(found))) is not None:
        found.append(gpu)
    return found


def _mib(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _cuda_of_driver() -> tuple[int, int] | None:
    """The newest CUDA version the driver can run; asking for it needs no initialisation."""
    try:
        libcuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        number = ctypes.c_int()
        if libcuda.cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return number.value // 1000, number.value % 1000 // 10
