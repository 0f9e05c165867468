"""Samplers and schedules, by the names that people type: diffusers', A1111's, ComfyUI's, InvokeAI's and k-diffusion's.

One table serves the command line, the text that A1111's web UI writes into pictures, and pictures of other programs. A
name of another program is here only where its sampler computes what the diffusers scheduler does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from typing import Any

from ipa_cli.config.presets import FEW_STEP
from ipa_cli.errors import IpaError, UsageError, suggest

LISTED = "`ipa samplers` lists them all"
SPACINGS = ("linspace", "leading", "trailing")  # diffusers' `timestep_spacing`
SIGMAS = ("karras", "exponential", "beta")  # diffusers' `use_karras_sigmas` and so on
SOLVER = (*SPACINGS, *SIGMAS)
K_DIFFUSION = (*SOLVER, "normal")


@dataclass(frozen=True)
class Scheduler:
    """A scheduler: its class in diffusers with `settings`, and what other programs call the same sampler.

    `a1111` is written into pictures, `others` are names of InvokeAI and k-diffusion; `schedules` are those that it
    takes, `needs` is a package that it imports and that is not a dependency.
    """

    class_name: str
    a1111: str
    comfyui: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: str | None = None
    has_eta: bool = False


_SDE = {"algorithm_type": "sde-dpmsolver++"}
# diffusers cuts predictions off at -1 and 1 for these two unless a model's config says otherwise. That is for models of
# pixels: latents are larger, and the config of another scheduler does not have to say it.
_UNCUT = {"clip_sample": False}
_DPM, _UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
# Those that call the UNet twice a step: heun, dpm2, dpm2-a, dpm++-sde. A class without settings comes first.
SCHEDULERS = {
    "euler": Scheduler("EulerDiscreteScheduler", "Euler", ("euler",), (), K_DIFFUSION),
    "euler-a": Scheduler("EulerAncestralDiscreteScheduler", "Euler a", ("euler_ancestral",), (), (*SPACINGS, "normal")),
    "dpm++": Scheduler(_DPM, "DPM++ 2M", ("dpmpp_2m",), (), SOLVER),
    "dpm++-2m-sde": Scheduler(
        _DPM, "DPM++ 2M SDE", ("dpmpp_2m_sde", "dpmpp_2m_sde_gpu"), (), SOLVER, {**_SDE, "solver_type": "midpoint"}
    ),
    "dpm++-2m-sde-heun": Scheduler(
        _DPM,
        "DPM++ 2M SDE Heun",
        ("dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"),
        (),
        SOLVER,
        {**_SDE, "solver_type": "heun"},
    ),
    "dpm++-3m": Scheduler(_DPM, "DPM++ 3M", (), ("dpmpp_3m",), SOLVER, {"solver_order": 3}),
    "dpm++-2s": Scheduler("DPMSolverSinglestepScheduler", "DPM++ 2S", (), ("dpmpp_2s",), SIGMAS),
    "dpm++-sde": Scheduler(
        "DPMSolverSDEScheduler", "DPM++ SDE", ("dpmpp_sde", "dpmpp_sde_gpu"), (), K_DIFFUSION, needs="torchsde"
    ),
    "ddim": Scheduler("DDIMScheduler", "DDIM", ("ddim",), (), SPACINGS, _UNCUT, has_eta=True),
    "ddpm": Scheduler("DDPMScheduler", "DDPM", ("ddpm",), (), SPACINGS, _UNCUT),
    "unipc": Scheduler(_UNIPC, "UniPC order 2", (), (), SOLVER),
    "unipc-bh1": Scheduler(
        _UNIPC, "UniPC", (), (), SOLVER, {"solver_type": "bh1", "solver_order": 3, "final_sigmas_type": "sigma_min"}
    ),
    "unipc-bh2": Scheduler(_UNIPC, "UniPC bh2", ("uni_pc_bh2",), (), SOLVER, {"solver_type": "bh2", "solver_order": 3}),
    "deis": Scheduler("DEISMultistepScheduler", "DEIS", (), (), SOLVER),
    "sa-solver": Scheduler("SASolverScheduler", "SA Solver", (), (), SOLVER),
    "heun": Scheduler("HeunDiscreteScheduler", "Heun", ("heun",), (), K_DIFFUSION),
    "lms": Scheduler("LMSDiscreteScheduler", "LMS", ("lms",), (), K_DIFFUSION, needs="scipy"),
    "lcm": Scheduler("LCMScheduler", "LCM", ("lcm",)),
    "tcd": Scheduler("TCDScheduler", "TCD", has_eta=True),
    "pndm": Scheduler("PNDMScheduler", "PLMS", (), (), SPACINGS),
    "dpm2": Scheduler("KDPM2DiscreteScheduler", "DPM2", ("dpm_2",), ("kdpm_2",), K_DIFFUSION),
    "dpm2-a": Scheduler("KDPM2AncestralDiscreteScheduler", "DPM2 a", ("dpm_2_ancestral",), ("kdpm_2_a",), K_DIFFUSION),
}


@dataclass(frozen=True)
class NoiseSchedule:
    """Where the steps lie: diffusers' `settings`, A1111's "Schedule type", and other names of the same."""

    settings: Mapping[str, Any]
    a1111: str | None = None
    comfyui: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    needs: str | None = None


# Karras, exponential and beta span all the model's noise levels, as in A1111 and ComfyUI and by diffusers' table in
# `api/schedulers/overview`, which also equates SGM uniform and simple with "trailing": of 1000 timesteps, SGM
# uniform's are up to 1.5 away from it and simple's up to 1, for 1 to 100 steps.
SCHEDULES = {
    "karras": NoiseSchedule({"timestep_spacing": "linspace", "use_karras_sigmas": True}, "Karras", ("karras",)),
    "exponential": NoiseSchedule(
        {"timestep_spacing": "linspace", "use_exponential_sigmas": True}, "Exponential", ("exponential",)
    ),
    "beta": NoiseSchedule({"timestep_spacing": "linspace", "use_beta_sigmas": True}, "Beta", needs="scipy"),
    "trailing": NoiseSchedule(
        {"timestep_spacing": "trailing"}, "SGM Uniform", ("sgm_uniform", "simple"), ("SGMUniform",)
    ),
    "leading": NoiseSchedule({"timestep_spacing": "leading"}, "DDIM", ("ddim_uniform",)),
    "linspace": NoiseSchedule({"timestep_spacing": "linspace"}),
    "normal": NoiseSchedule({"timestep_spacing": "linspace"}, "Normal", ("normal",), ("Uniform",)),
}
_FLAGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")

# Samplers of other programs that no diffusers scheduler computes, so that none is suggested for them. diffusers' own
# third-order SDE differs from k-diffusion's in the sign of a term, its single-step solver from DPM++ 2S and from
# DPM++ SDE in where it evaluates the UNet, its SA-Solver and DEIS from ComfyUI's in their orders, its UniPC of variant
# bh1 from ComfyUI's in that it cannot end without noise.
FOREIGN = (
    *("DPM++ 2S a", "DPM++ 3M SDE", "DPM fast", "DPM adaptive", "Restart", "HeunPP2", "dpmpp_2s_ancestral"),
    *("dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "euler_cfg_pp", "euler_ancestral_cfg_pp", "dpmpp_2s_ancestral_cfg_pp"),
    *("dpmpp_2m_cfg_pp", "exp_heun_2_x0", "exp_heun_2_x0_sde", "ipndm", "ipndm_v", "res_multistep"),
    *("res_multistep_cfg_pp", "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "gradient_estimation"),
    *("gradient_estimation_cfg_pp", "er_sde", "seeds_2", "seeds_3", "sa_solver_pece", "uni_pc"),
)


@dataclass(frozen=True)
class Sampling:
    """How a picture goes from step to step: names in `SCHEDULERS` and `SCHEDULES`, None for the model's own.

    `eta` is the share of fresh noise that DDIM and TCD add, None is 0 as in diffusers' pipelines; `timesteps` stand in
    place of those that the scheduler would choose, `prediction_type` in place of the model's. `start` is the number of
    steps that are left out with a picture to begin with, None without one.
    """

    scheduler: str | None = None
    schedule: str | None = None
    eta: float | None = None
    timesteps: tuple[int, ...] | None = None
    prediction_type: str | None = None
    start: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What it changes in the configuration of a scheduler."""
        found: dict[str, Any] = {}
        if self.schedule is not None:
            taken = SIGMAS if self.scheduler is None else SCHEDULERS[self.scheduler].schedules
            found |= dict.fromkeys(_FLAGS, False) if set(SIGMAS) & set(taken) else {}
            found |= SCHEDULES[self.schedule].settings
        if self.scheduler is not None:
            found |= SCHEDULERS[self.scheduler].settings
        return found if self.prediction_type is None else {**found, "prediction_type": self.prediction_type}


def names(field: str) -> dict[str, str]:
    """Our names by another name, a field of `Scheduler`: "class_name", "a1111" or "comfyui"."""
    found: dict[str, str] = {}
    for name, one in SCHEDULERS.items():
        values = getattr(one, field)
        for value in (values,) if isinstance(values, str) else values:
            found.setdefault(value, name)
    return found


def installed(known: Mapping[str, Scheduler | NoiseSchedule]) -> list[str]:
    """The names of those that have what they need: of `SCHEDULERS` or of `SCHEDULES`."""
    return [name for name, one in known.items() if one.needs is None or find_spec(one.needs) is not None]


def find(text: str) -> tuple[str, str | None] | None:
    """The sampler that `text` names, and the schedule that is a part of it ("DPM++ 2M Karras", "euler_k").

    A name spelled exactly as a program has it is this program's, others are compared without case and punctuation:
    "UniPC" is A1111's, "unipc" diffusers' and InvokeAI's.
    """
    key, known = _key(text), _known()
    exactly = {spelling: name for name in reversed(SCHEDULERS) for spelling in spellings(name)}
    if text in FOREIGN:
        return None
    if text in exactly or key in known:
        return exactly.get(text, known.get(key, "")), None
    if key in _schedules():
        return None  # and no sampler with one: "ddim_uniform"
    for spelling, name in exactly.items():
        rest = text.removeprefix(f"{spelling} ")
        if rest != text and (schedule := find_schedule(rest)) is not None:
            return name, schedule
    base, schedule = _split(key)
    return (known[base], schedule) if base in known else None


def find_schedule(text: str) -> str | None:
    """The schedule that `text` names, in whatever program."""
    return _schedules().get(_key(text))


def of_program(sampler: str | None, schedule: str | None, comfyui: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Settings of what a picture of another program says, and notes on what is left out.

    ComfyUI's names are taken by its own column alone: its "deis" and "beta" are not those of others.
    """
    values: dict[str, Any] = {}
    left_out: list[str] = []
    found = None if sampler is None else find(sampler)
    place = None if schedule is None else find_schedule(schedule)
    if comfyui:
        name = names("comfyui").get(sampler or "")
        found = None if name is None else (name, None)
        place = next((ours for ours, one in SCHEDULES.items() if schedule in one.comfyui), None)
    if found is not None:
        values["scheduler"] = found[0]
        place = found[1] or place
        if place in SCHEDULERS[found[0]].schedules:
            values["schedule"] = place
    elif sampler is not None:
        left_out.append(f"sampler {sampler} (choose one with --sampler)")
    if schedule not in (None, "Automatic") and "schedule" not in values:
        left_out.append(f"schedule {schedule}")
    return values, left_out


def choose(
    scheduler: str | None,
    schedule: str | None = None,
    eta: float | None = None,
    own_class: str | None = None,
    installed: bool = True,
) -> Sampling:
    """What these settings ask for. Raises UsageError for names that are none and for what does not go together.

    `own_class` is that of the model's own scheduler in diffusers, once it is known. Raises IpaError where a package is
    missing that is needed, unless `installed` is false.
    """
    name, part = (None, None) if scheduler is None else _resolved(scheduler)
    asked = None if schedule is None else _resolved_schedule(schedule)
    if part is not None and asked not in (None, part):
        raise UsageError(
            f"the sampler '{scheduler}' names the schedule {part}, and --schedule says {asked}", "leave one of them out"
        )
    found = Sampling(name, part or asked, eta)
    if name is not None or own_class is not None:
        _check_together(found, names("class_name").get(own_class or "") if name is None else name, own_class)
    if installed:
        own = names("class_name").get(own_class or "", "")
        _check_installed(f"sampler '{name}'" if name else "model's scheduler", SCHEDULERS.get(name or own))
        _check_installed(f"schedule '{found.schedule}'", SCHEDULES.get(found.schedule or ""))
    return found


def _check_installed(what: str, chosen: Scheduler | NoiseSchedule | None) -> None:
    if chosen is not None and chosen.needs is not None and find_spec(chosen.needs) is None:
        raise IpaError(f"the {what} needs {chosen.needs}", f"pip install {chosen.needs}")


def _check_together(asked: Sampling, name: str | None, own_class: str | None) -> None:
    called = name or own_class
    if asked.schedule is not None:
        taken = SCHEDULERS[name].schedules if name is not None else ()
        if asked.schedule not in taken:
            one_of = f"choose one of {', '.join(taken)}" if taken else "leave out --schedule"
            raise UsageError(
                f"the sampler {called} has no schedule '{asked.schedule}'", f"{one_of}, or another --sampler"
            )
    if asked.eta is not None and not (name is not None and SCHEDULERS[name].has_eta):
        having = " or ".join(name for name, one in SCHEDULERS.items() if one.has_eta)
        raise UsageError(
            f"the sampler {called} has no eta: --eta {asked.eta:g} is for others",
            f"leave it out, or use --sampler {having}",
        )


def _resolved(text: str) -> tuple[str, str | None]:
    found = find(text)
    if found is not None:
        return found
    if find_schedule(text) is not None:
        raise UsageError(f"'{text}' is a schedule, not a sampler", f"--schedule {find_schedule(text)}")
    foreign = {_key(name) for name in FOREIGN}
    if {_key(text), _split(_key(text))[0]} & foreign:
        raise UsageError(f"no scheduler of diffusers computes what the sampler '{text}' does", LISTED)
    hint = f"--preset {text} sets the sampler of such a model" if text in FEW_STEP else LISTED
    raise UsageError(f"unknown sampler '{text}'{_near(text, foreign)}", hint)


def _near(text: str, foreign: set[str]) -> str:
    """`"; did you mean 'x'?"` where `text` is most likely a slip of x, and no slip of a sampler that is not here."""
    shown = {_key(name): name for name in reversed(spellings())}
    shown |= {
        f"{key}_{schedule}": f"{name} {SCHEDULES[schedule].a1111}" for key, name in shown.items() for schedule in SIGMAS
    }
    others = [*foreign, *(f"{key}_{schedule}" for key in foreign for schedule in SIGMAS)]
    [close] = get_close_matches(_key(text), [*shown, *others], n=1, cutoff=0.8) or [""]
    same_order = re.findall(r"\d", close) == re.findall(r"\d", text)
    return f"; did you mean '{shown[close]}'?" if close in shown and same_order else ""


def _resolved_schedule(text: str) -> str:
    found = find_schedule(text)
    if found is None:
        raise UsageError(
            f"unknown schedule '{text}'{suggest(text, SCHEDULES)}", f"choose one of {', '.join(SCHEDULES)}"
        )
    return found


def spellings(name: str | None = None) -> list[str]:
    """All names of one sampler, or of all: ours first, then diffusers', A1111's, ComfyUI's and the others'."""
    found: dict[str, None] = {}
    for ours, one in SCHEDULERS.items():
        own_class = () if one.settings else (one.class_name,)
        if name in (None, ours):
            found |= dict.fromkeys((ours, *own_class, one.a1111, *one.comfyui, *one.others))
    return list(found)


def _key(text: str) -> str:
    """A name without what programs write differently: case, blanks, `++` for `pp`, k-diffusion's prefixes."""
    key = re.sub(r"[\s_-]+", "_", text.strip().lower().replace("++", "pp"))
    return re.sub(r"^(sample_|k_)", "", key)


def _split(key: str) -> tuple[str, str | None]:
    """A key without the schedule at its end, and this schedule; `_k` is InvokeAI's for Karras'."""
    for ending, schedule in sorted(
        (*_schedules().items(), ("k", "karras")), reverse=True, key=lambda pair: len(pair[0])
    ):
        if key.endswith(f"_{ending}"):
            return key[: -len(ending) - 1], schedule
    return key, None


def _known() -> dict[str, str]:
    return {_key(text): name for name in reversed(SCHEDULERS) for text in spellings(name)}


@cache
def _schedules() -> dict[str, str]:
    return {
        _key(text): name
        for name, one in SCHEDULES.items()
        for text in (name, one.a1111, *one.comfyui, *one.others)
        if text is not None
    }
