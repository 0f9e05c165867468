"""Sampler, steps and guidance of a request: the user's, else what a model for few steps wants, else the model's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ipa_cli.config import Settings
from ipa_cli.config.presets import FEW_STEP
from ipa_cli.errors import UsageError
from ipa_cli.models import few_steps, schedulers
from ipa_cli.models.few_steps import FewSteps
from ipa_cli.models.schedulers import Sampling
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    from ipa_cli.models.lora.lora import Lora
    from ipa_cli.models.plan import Plan


@dataclass(frozen=True)
class Chosen:
    """How a request is sampled; `preset` is as asked for, few-step by its name in `few_steps.TABLE`."""

    sampling: Sampling
    steps: int
    guidance_scale: float
    preset: str | None = None


def choose(settings: Settings, plan: Plan, loras: Sequence[Lora]) -> Chosen:
    """Raises UsageError for what does not go together, and for a preset that nothing decides."""
    few = few_steps.choose(settings.preset, _names(settings, plan, loras), own_scheduler(plan), settings.steps)
    steps = settings.steps or (few.steps if few else plan.defaults["steps"])
    guidance = float(few.guidance_scale) if few else plan.defaults["guidance_scale"]
    guidance = guidance if settings.guidance_scale is None else settings.guidance_scale
    return Chosen(_sampling(settings, plan, few, steps), steps, guidance, few.name if few else settings.preset)


def check_same(settings: Settings, plan: Plan, each: Iterable[Sequence[Lora]]) -> None:
    """Raise UsageError where the LoRAs of several prompts want different settings: all are drawn with the same."""
    if len({choose(settings, plan, loras) for loras in each}) > 1:
        raise UsageError(
            "the LoRAs of these prompts want different samplers or steps", "draw them apart, or name one kind: --preset"
        )


def advise(settings: Settings, plan: Plan, loras: Sequence[Lora], reporter: Reporter) -> None:
    """Warn where a model would draw badly, see `few_steps.advice` and `few_steps.unfit`."""
    if settings.preset is not None and settings.preset in FEW_STEP:
        own = any(not one.of_adapter for one in loras)
        warning = few_steps.unfit(settings.preset, plan.name, bool(own or settings.lora))
        if warning is not None and not plan.dummy:
            reporter.warn(warning)
        return
    found = few_steps.recognize(_names(settings, plan, loras), own_scheduler(plan))
    chosen = choose(settings, plan, loras)
    advice = few_steps.advice(found, chosen.steps, chosen.guidance_scale)
    if advice is not None:
        reporter.warn(advice)


def own_scheduler(plan: Plan) -> str:
    """The class of the model's own scheduler in diffusers."""
    return str(plan.configs["scheduler"]["_class_name"])


def schedule_name(plan: Plan, sampling: Sampling) -> str | None:
    """The schedule asked for, else the one that the model's own configuration names, as far as the sampler takes it."""
    if sampling.schedule is not None or sampling.timesteps is not None:
        return sampling.schedule
    config = {**plan.configs["scheduler"], **(plan.checkpoint.scheduler if plan.checkpoint else {})}
    own = [*(name for name in schedulers.SIGMAS if config.get(f"use_{name}_sigmas")), config.get("timestep_spacing")]
    name = sampling.scheduler or schedulers.names("class_name").get(own_scheduler(plan))
    taken = schedulers.SCHEDULERS[name].schedules if name is not None else ()
    return next((place for place in own if place in taken), None)


def _names(settings: Settings, plan: Plan, loras: Sequence[Lora]) -> list[str]:
    """What says which model for few steps it is: the LoRAs, then the model."""
    configs = dict.fromkeys((*(one.config for one in loras), *settings.lora))
    names = [one.source if one.file is None else f"{one.source}/{one.file}" for one in configs]
    return [*names, plan.name]


def _sampling(settings: Settings, plan: Plan, few: FewSteps | None, steps: int) -> Sampling:
    """The schedule and the rest that a model for few steps wants go with its sampler, not with another."""
    if few is None or settings.scheduler is not None:
        chosen = schedulers.choose(settings.scheduler, settings.schedule, settings.eta, own_scheduler(plan))
        return chosen if few is None else replace(chosen, prediction_type=few.prediction_type)
    schedule = few.schedule if settings.schedule is None else settings.schedule
    eta = few.eta if settings.eta is None else settings.eta
    chosen = schedulers.choose(few.scheduler, schedule, eta)
    fits = few.timesteps is not None and len(few.timesteps) == steps
    return replace(chosen, timesteps=few.timesteps if fits else None, prediction_type=few.prediction_type)
