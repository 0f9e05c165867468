"""Models and LoRAs distilled for a few steps, and the settings that their authors give for them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ipa_cli.config.presets import FEW_STEP
from ipa_cli.errors import UsageError


@dataclass(frozen=True)
class FewSteps:
    """The settings for one kind of model, in names of `schedulers.Sampling`; a guidance scale of 0 is off."""

    name: str
    steps: int
    guidance_scale: float
    scheduler: str
    schedule: str | None = None
    eta: float | None = None
    timesteps: tuple[int, ...] | None = None
    prediction_type: str | None = None


# By the authors' examples or copies of them, SDXL-Turbo's own scheduler, and diffusers' guide for TCD. "hyper-sd-cfg"
# is unverified: the card read announces it, with a guidance of 5 to 10 and no example; it has the sampler of Hyper-SD's
# other LoRAs. The first of a name is its usual number of steps; a file for another number that is not here has the
# settings of the first.
TABLE = (
    FewSteps("lcm", 4, 0, "lcm"),  # latent-consistency/lcm-lora-sdxl, lcm-lora-sdv1-5
    FewSteps("tcd", 4, 0, "tcd", eta=0.3),  # h1t/TCD-SDXL-LoRA, TCD-SD15-LoRA
    FewSteps("turbo", 1, 0, "euler-a", "trailing"),  # stabilityai/sdxl-turbo, of 512x512 pixels and 1 to 4 steps
    FewSteps("lightning", 4, 0, "euler", "trailing"),  # ByteDance/SDXL-Lightning
    FewSteps("lightning", 1, 0, "euler", "trailing", prediction_type="sample"),
    FewSteps("hyper-sd", 4, 0, "ddim", "trailing"),  # ByteDance/Hyper-SD
    FewSteps("hyper-sd", 1, 0, "tcd", eta=1.0),
    FewSteps("hyper-sd-cfg", 8, 5, "ddim", "trailing"),  # its LoRAs that keep guidance, of 5 to 8
    FewSteps("hyper-sd-unet", 1, 0, "lcm", timesteps=(800,)),
    FewSteps("dmd2", 4, 0, "lcm", timesteps=(999, 749, 499, 249)),  # tianweiy/DMD2
    FewSteps("dmd2", 1, 0, "lcm", timesteps=(399,)),
)
# What the name of a file or repository says, the most specific first.
_MARKS = (
    ("hyper-sd-cfg", r"hyper[-_ ]?sd.*cfg"),
    ("hyper-sd-unet", r"hyper[-_ ]?sd.*unet"),
    ("hyper-sd", r"hyper[-_ ]?sd"),
    ("dmd2", r"dmd2"),
    ("lightning", r"^(?=.*(xl|sd1|step))(?=.*lightning)"),  # and not a style of that name
    ("turbo", r"^(?=.*(xl|sd1|step))(?=.*turbo)"),
    ("tcd", r"(?<![a-z])tcd(?![a-z])"),
    ("lcm", r"(?<![a-z])lcm(?![a-z])|latent[-_ ]consistency"),
)
# Models that were not distilled, by the names of the usual ones alone: a merge may be called anything.
_PLAIN = re.compile(
    r"(^|/)(demo|sdxl|sd15|stable-diffusion-xl-base-1\.0|stable-diffusion-v1-5|sd_xl_base_1\.0(_0\.9vae)?|v1-5-pruned(-emaonly)?)"
    r"(-fp16|\.fp16)?(\.safetensors|\.ckpt)?$"
)
_OF_SCHEDULER = {"LCMScheduler": "lcm", "TCDScheduler": "tcd"}
_STEPS = re.compile(r"(?<![0-9])([1-9][0-9]?)[-_ ]?steps?(?![a-z])")


def recognize(named: Iterable[str], scheduler_class: str = "") -> FewSteps | None:
    """What the names of LoRAs and model, the most telling first, or the model's own scheduler, say; None for nothing.

    The last two parts of a path or hub id count.
    """
    for name in named:
        text = "/".join(name.replace("\\", "/").rstrip("/").split("/")[-2:]).lower()
        kind = next((kind for kind, mark in _MARKS if re.search(mark, text)), None)
        if kind is not None:
            steps = _STEPS.search(text)
            return _of(kind, int(steps[1]) if steps else None)
    return _of(_OF_SCHEDULER[scheduler_class]) if scheduler_class in _OF_SCHEDULER else None


def choose(preset: str | None, named: Iterable[str], scheduler_class: str, steps: int | None) -> FewSteps | None:
    """The settings that `--preset` asks for; `steps` are those that the user asks for.

    Raises UsageError for "few-step" where nothing says which they are.
    """
    if preset not in FEW_STEP:
        return None
    found = recognize(named, scheduler_class)
    if preset != FEW_STEP[0]:
        return found if found is not None and found.name == preset else _of(preset, steps)
    if found is None:
        raise UsageError(
            "--preset few-step: neither model nor LoRA says by its name that it is for a few steps",
            f"name its kind: --preset {', '.join(FEW_STEP[1:])}",
        )
    return found


def unfit(preset: str, model: str, loras: bool) -> str | None:
    """A warning where `preset` is for distilled models and this is certainly none: a usual base model and no LoRA."""
    if loras or not _PLAIN.search(model.replace("\\", "/").rstrip("/").lower()):
        return None
    return f"--preset {preset} is for models distilled for a few steps: {model} is none, and no --lora makes it one"


def advice(found: FewSteps | None, steps: int, guidance_scale: float) -> str | None:
    """A warning on settings with which such a model draws badly, where it was not asked for by `--preset`."""
    if found is None or (steps <= max(12, found.steps) and guidance_scale <= max(2.5, found.guidance_scale)):
        return None
    guidance = f"guidance {found.guidance_scale:g}" if found.guidance_scale else "no guidance"
    wants = f"{found.steps} step{'s' * (found.steps > 1)} and {guidance}"
    return (
        f"a model for few steps ({found.name}) wants {wants}, and this is {steps} with guidance {guidance_scale:g}: "
        f"--preset {FEW_STEP[0]} sets them"
    )


def _of(name: str, steps: int | None = None) -> FewSteps:
    known = [one for one in TABLE if one.name == name]
    exact = next((one for one in known if one.steps == steps), None)
    if exact is not None or steps is None:
        return exact or known[0]
    return replace(known[0], steps=steps, timesteps=None)
