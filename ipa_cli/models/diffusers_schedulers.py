"""diffusers' schedulers for a model: its own, or another, with the settings that a `Sampling` names."""

from __future__ import annotations

import inspect
import json
import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ipa_cli.errors import UsageError
from ipa_cli.models.architectures.base import Architecture
from ipa_cli.models.location import ModelError
from ipa_cli.models.schedulers import SCHEDULERS, Sampling

if TYPE_CHECKING:
    from ipa_cli.models.plan import Plan

_IMPORTING = threading.Lock()

# Steps that each of them can do, whatever the model; to find out of others takes importing diffusers, for seconds.
USUAL = range(4, 51)
MOST = 1000


def facts(plan: Plan, sampling: Sampling, steps: int) -> str:
    """All that decides what a scheduler does, as JSON."""
    changes = plan.checkpoint.scheduler if plan.checkpoint else {}
    asked = {"settings": sampling.settings, "eta": sampling.eta, "timesteps": sampling.timesteps}
    asked |= {"start": sampling.start}
    found = {
        "config": {**plan.configs["scheduler"], **changes},
        "architecture": plan.architecture.name,
        "sampler": SCHEDULERS[sampling.scheduler].class_name if sampling.scheduler else None,
        "steps": steps,
        **{name: value for name, value in asked.items() if value not in (None, {})},
    }
    return json.dumps(found, sort_keys=True)


def check_steps(sampling: Sampling, plan: Plan, steps: int) -> None:
    """Raise UsageError unless the scheduler of `sampling` can do so many steps: it is tried out."""
    if steps in USUAL or sampling.timesteps is not None:
        return

    @cache
    def good(count: int) -> bool:
        return works(create(sampling, plan), count)

    if not good(steps):
        low = next(filter(good, range(1, MOST)))
        high = _highest(good, low)
        wanted = f"from {low} to {high}"
        if low < steps < high:  # two of its timesteps are rounded to the same one
            near = (range(steps - 1, low - 1, -1), range(steps + 1, high + 1))
            wanted = " or ".join(str(next(filter(good, counts))) for counts in near)
        called = sampling.scheduler or plan.configs["scheduler"]["_class_name"]
        raise UsageError(
            f"the sampler {called} cannot do {steps} step{'s' * (steps > 1)}",
            f"choose --steps {wanted}, or another --sampler",
        )


def _highest(good: Callable[[int], bool], low: int) -> int:
    """The largest good number, where all from `low` up to it are: from `MOST` down in growing strides, then halved.

    Most schedulers that cannot do all can do nearly all, and many steps take long to try where they work.
    """
    stride, bad = 1, MOST + 1
    while not good(most := max(bad - stride, low)):
        stride, bad = 2 * stride, most
    return most + bisect_left(range(most + 1, bad), True, key=lambda count: not good(count))


def begin(scheduler: Any, sampling: Sampling, steps: int) -> tuple[Sequence[Any], dict[str, Any]]:
    """Set the timesteps of a scheduler; returns those that are gone through, and what else its every step is given.

    With a picture to begin with the first are left out, as in `get_timesteps` of diffusers' pipelines.
    """
    if sampling.timesteps is None:
        scheduler.set_timesteps(steps)
    else:
        scheduler.set_timesteps(timesteps=list(sampling.timesteps))
    left_out = (sampling.start or 0) * scheduler.order
    if sampling.start is not None and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(left_out)
    takes = inspect.signature(scheduler.step).parameters
    more = {"eta": sampling.eta or 0.0} if "eta" in takes else {}  # 0 unless given, as in diffusers' pipelines
    return scheduler.timesteps[left_out:], more


def works(scheduler: Any, steps: int) -> bool:
    """Whether so many steps on a tiny picture fail nowhere and end in numbers."""
    import torch

    try:
        scheduler.set_timesteps(steps)
        latents = torch.ones(1, 4, 2, 2)
        for timestep in scheduler.timesteps:
            noise = scheduler.scale_model_input(latents, timestep)
            latents = scheduler.step(noise, timestep, latents, return_dict=False)[0]
    except (ValueError, IndexError, AssertionError, torch.linalg.LinAlgError):
        return False
    return bool(latents.isfinite().all())


def create(sampling: Sampling, plan: Plan) -> Any:
    """A fresh diffusers scheduler: the model's own, or another with the betas and what else the model's own says.

    As diffusers' pipeline of the architecture has it. Raises ModelError where this diffusers does not know it, or finds
    settings in it that exclude each other.
    """
    own = of_model(plan.configs["scheduler"], plan.architecture, plan.checkpoint.scheduler if plan.checkpoint else None)
    name, settings = sampling.scheduler, sampling.settings
    if name is None and not settings:
        return own
    kind = type(own) if name is None else _class(SCHEDULERS[name].class_name)
    if kind is None:
        raise ModelError(f"this diffusers has no sampler {name}", "pip install --upgrade diffusers")
    try:
        return kind.from_config(own.config, **settings)
    except (ValueError, NotImplementedError) as error:
        what = f"the model's {type(own).__name__} and the sampler asked for do not go together"
        raise ModelError(f"{what}: {error}", "choose another --sampler or --schedule") from error


def of_model(config: Mapping[str, Any], architecture: Architecture, changes: Mapping[str, Any] | None = None) -> Any:
    """A model's own scheduler, with `changes` and those that diffusers' pipeline of the architecture makes.

    `config` is what `configurations.scheduler` takes. Raises ModelError where this diffusers does not know it, or finds
    settings in it that exclude each other.
    """
    kind = _class(config["_class_name"])
    if kind is None:
        raise ModelError(f"this diffusers has no {config['_class_name']}, which the model wants", "upgrade diffusers")
    for one in SCHEDULERS.values():
        if one.class_name == config["_class_name"] and one.needs is not None and find_spec(one.needs) is None:
            raise ModelError(f"the model's scheduler needs {one.needs}", f"pip install {one.needs}")
    try:
        scheduler = kind.from_config({**config, **(changes or {})})
    except (ValueError, NotImplementedError) as error:
        raise ModelError(f"the model's scheduler cannot be made: {error}", "use another model") from error
    right = architecture.scheduler_changes(scheduler.config)
    return kind.from_config(scheduler.config, **right) if right else scheduler


def _class(name: str) -> Any:
    """A class of diffusers, None for a name that it does not have; it is kept from logging advice nobody here needs.

    One thread at a time: its modules import each other in circles, and another thread would see them half done.
    """
    with _IMPORTING:
        import diffusers
        from diffusers.utils import logging

        logging.set_verbosity_error()
        return getattr(diffusers, name, None)
