"""Which backend the settings choose, whether it can work here, and whether it can do what they ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipa_cli import backends
from ipa_cli.backends import AUTO
from ipa_cli.backends.base import check_fp8
from ipa_cli.config import Settings, step_cache
from ipa_cli.engine import tuned
from ipa_cli.engine.wanted import asked_options
from ipa_cli.errors import UsageError
from ipa_cli.hardware import devices
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    import torch


def check_backend(name: str, precision: str = "half") -> str:
    """The backend asked for, or auto. Raises UsageError for an unknown one, IpaError for one that cannot work here."""
    name = resolve(name, precision)
    problem = None if name == AUTO else backends.problem(name)
    if problem is not None:
        raise problem
    return name


def resolve(name: str, precision: str) -> str:
    """The backend that a name stands for; with fp8 auto is not free to choose. Raises UsageError for an unknown one."""
    return backends.capable("fp8")[0] if (name, precision) == (AUTO, "fp8") else backends.resolve(name)


def check_capabilities(settings: Settings, device: torch.device, offload: str) -> None:
    """Raise UsageError for what the settings ask of their backend and it cannot do on `device`."""
    if settings.gpus > 1 and settings.offload != "none":
        raise UsageError("--gpus 2 needs the weights to stay on both GPUs", "leave out --offload, or --gpus")
    if settings.gpus > 1 and (cached := step_cache.parse(settings.step_cache)).uses(step_cache.DEEP):
        raise UsageError(
            f"--gpus 2 and --step-cache {cached} are both given",
            "leave one of them out, or use forecast:2",
        )
    name = resolve(settings.backend, settings.precision)
    if name == AUTO:  # it chooses a backend that can
        return
    backends.require_device(name, device.type)
    backends.require_dtype(name, str(devices.pick_dtype(settings.dtype, device)).removeprefix("torch."))
    asked = {"offload": offload != "none", "batch": settings.batch_size > 1}
    backends.require(name, *(capability for capability, wanted in asked.items() if wanted))
    backend = backends.get(name)
    if asked_options(backend, name, settings).get("precision") == "fp8":
        check_fp8(device, backend.CAPABILITIES.fp8)


def warn_of_tuning(settings: Settings, device: torch.device, reporter: Reporter) -> None:
    """Warn where kernels run untuned because what `ipa bench --tune` kept is damaged."""
    name = resolve(settings.backend, settings.precision)
    name = backends.PREFERRED if name == AUTO else name
    if device.type == "cuda" and backends.get(name).options(settings.compile_options).get("tuning", {}) is None:
        tuned.warn(settings, name, reporter)
