"""`ipa bench --tune`: what a backend's kernels are launched with, measured on this GPU and kept beside its graphs."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ipa_cli import backends
from ipa_cli.config import Settings
from ipa_cli.engine import tuned
from ipa_cli.engine.wanted import machine
from ipa_cli.errors import IpaError
from ipa_cli.hardware import devices
from ipa_cli.result import Reporter, Table
from ipa_cli.system import files


def tune(settings: Settings, backend: str, reporter: Reporter) -> tuple[dict[str, Any], Path]:
    """Measure and keep; what was found as JSON has it, and its file. Raises IpaError where there is nothing to tune."""
    device = devices.pick_device(settings.device)
    if device.type not in backends.get(backend).CAPABILITIES.tunes:
        raise IpaError(
            f"there is nothing to tune on {device.type}: the kernels with alternatives are for NVIDIA GPUs",
            "name a GPU with --device cuda",
        )
    if problem := backends.problem(backend) or backends.get(backend).toolchain_problem():
        raise problem
    gpu, _ = machine(device)
    files.make_folder(tuned.path(settings, backend, gpu).parent)  # fails before anything is measured
    with reporter.stage("tuning") as doing:
        kernels = backends.tunable(backend).tune(device, devices.pick_dtype(settings.dtype, device), doing)
    found = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "backend": backend,
        "gpu": gpu,
        "versions": backends.get(backend).versions(),
        "tuning": {one.kernel: one.choice for one in kernels if not one.is_first},
        "kernels": [asdict(one) for one in kernels],
    }
    return found, tuned.keep(settings, backend, gpu, found)


def table(found: dict[str, Any]) -> Table:
    """A row for each choice of each kernel."""
    rows = []
    for one in found["kernels"]:
        for number, (choice, time) in enumerate(one["measured"]):
            name = "torch's own" if choice is None else " ".join(map(str, choice))
            ms = "does not run here" if time is None else f"{time:.3f}"
            which = ", ".join(("the table's",) * (number == 0) + ("chosen",) * (choice == one["choice"]))
            rows.append((one["kernel"], name, ms, which))
    return Table(("kernel", "choice", "ms of a step", ""), tuple(rows))
