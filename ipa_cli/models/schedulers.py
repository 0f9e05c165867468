"""Samplers: a model's own, and others by the names people type."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from ipa_cli.errors import IpaError, UsageError, suggest


@dataclass(frozen=True)
class Scheduler:
    """A scheduler by its class in diffusers, and its names in other programs whose pictures are read or written.

    `needs` is a package that it imports and that is not a dependency.
    """

    class_name: str
    a1111: str
    invokeai: str
    comfyui: str | None = None
    needs: str | None = None


# By the names that people type. Second-order ones call the UNet twice a step.
SCHEDULERS = {
    "euler": Scheduler("EulerDiscreteScheduler", "Euler", "euler", "euler"),
    "euler-a": Scheduler("EulerAncestralDiscreteScheduler", "Euler a", "euler_a", "euler_ancestral"),
    "dpm++": Scheduler("DPMSolverMultistepScheduler", "DPM++ 2M", "dpmpp_2m", "dpmpp_2m"),
    "dpm++-sde": Scheduler("DPMSolverSDEScheduler", "DPM++ SDE", "dpmpp_sde", "dpmpp_sde", needs="torchsde"),
    "ddim": Scheduler("DDIMScheduler", "DDIM", "ddim", "ddim"),
    "unipc": Scheduler("UniPCMultistepScheduler", "UniPC", "unipc", "uni_pc"),
    "heun": Scheduler("HeunDiscreteScheduler", "Heun", "heun", "heun"),
    "lms": Scheduler("LMSDiscreteScheduler", "LMS", "lms", "lms", needs="scipy"),
    "lcm": Scheduler("LCMScheduler", "LCM", "lcm", "lcm"),
    "pndm": Scheduler("PNDMScheduler", "PLMS", "pndm"),
    "dpm2": Scheduler("KDPM2DiscreteScheduler", "DPM2", "kdpm_2", "dpm_2"),
    "dpm2-a": Scheduler("KDPM2AncestralDiscreteScheduler", "DPM2 a", "kdpm_2_a", "dpm_2_ancestral"),
}


def names(field: str) -> dict[str, str]:
    """Our names by another name, a field of `Scheduler` such as "class_name" or "comfyui"."""
    return {getattr(one, field): name for name, one in SCHEDULERS.items() if getattr(one, field) is not None}


def check(name: str | None) -> None:
    """Raise UsageError unless `name` is known and what it needs is installed."""
    if name is None:
        return
    if name not in SCHEDULERS:
        known = ", ".join(SCHEDULERS)
        raise UsageError(f"unknown scheduler '{name}'{suggest(name, SCHEDULERS)}", f"choose one of {known}")
    package = SCHEDULERS[name].needs
    if package is not None and find_spec(package) is None:
        raise IpaError(f"the scheduler '{name}' needs {package}", f"pip install {package}")
