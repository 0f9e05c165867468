"""The machine that measures, and whether other programs disturb it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ipa_cli.hardware import cores, probe

DISTURBING = 0.25  # of the cores: what other programs may use before it shows in the figures


def describe() -> dict[str, Any]:
    """GPU, driver and processor of this machine."""
    found = probe.machine()
    return {
        "gpu": found.gpu.name if found.gpu else None,
        "driver": found.gpu.driver if found.gpu else None,
        "cpu": _processor(),
        "cores": cores.usable(),
    }


def disturbance(busy_elsewhere: float) -> str:
    """A warning about figures taken while other programs kept so many cores busy; empty where enough were left."""
    usable = cores.usable()
    if busy_elsewhere < DISTURBING * usable:
        return ""
    return f"other programs used {busy_elsewhere:.1f} of {usable} cores meanwhile: the figures suffer"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or probe.instruction_set()[0]
