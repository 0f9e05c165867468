"""Steps that keep something of those before: the deep part of the UNet, or what the UNet predicts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ipa_cli import backends
from ipa_cli.config.presets import preset_values
from ipa_cli.config.step_cache import DEEP, FORECAST, StepCache, parse
from ipa_cli.errors import UsageError
from ipa_cli.models import schedulers
from ipa_cli.pipeline.sampling import own_scheduler
from ipa_cli.pipeline.span import counts

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.backends.base import Denoiser
    from ipa_cli.config import Settings
    from ipa_cli.models.plan import Plan
    from ipa_cli.models.schedulers import Sampling
    from ipa_cli.unet.inputs import UNetInputs

# Samplers whose predictions can be forecast: they add no noise, which only the UNet sees, and call it once a step.
SMOOTH = ("euler", "dpm++", "dpm++-3m", "ddim", "unipc", "unipc-bh1", "unipc-bh2", "deis", "lms")


FIRST = {DEEP: 1, FORECAST: 2}  # steps of a kind that are computed before any is saved


class Calls(Protocol):
    """Calls of a UNet in the order of the steps: `unet(given())` gives the noise, or something close to it."""

    def __call__(self, unet: Denoiser, given: Callable[[], UNetInputs], step: int) -> Tensor: ...


def calls(cache: StepCache, kinds: Sequence[Hashable]) -> Calls:
    """Calls for the steps, in which nothing is kept from one of a kind to one of another.

    A kind is which adapters and ControlNets act, and whether there is guidance, which doubles the batch.
    """
    if cache.uses(DEEP):
        return DeepStates(cache.every, kinds)
    if cache.uses(FORECAST):
        return Forecasts(cache.every, kinds)
    return lambda unet, given, step: unet(given())


def saved(cache: StepCache, guided: Sequence[bool], spans: Sequence[tuple[float, float]]) -> int:
    """How many steps of a pass cost less: which have guidance, and in which part adapters and ControlNets act."""
    if cache.every == 1:
        return 0
    steps = len(guided)
    kinds = [(kind, *(counts(*span, step, steps) for span in spans)) for step, kind in enumerate(guided)]
    return computed(cache.every, kinds, FIRST[cache.method]).count(False)


def choose(settings: Settings, plan: Plan, sampling: Sampling) -> StepCache:
    """The step cache of a request.

    Raises UsageError for a sampler whose predictions cannot be forecast, and a backend without deep states.
    """
    cache, own = parse(settings.step_cache), own_scheduler(plan)
    if cache.uses(DEEP):
        backends.require(settings.backend, "step_cache")
    name = sampling.scheduler or schedulers.names("class_name").get(own, own)
    if cache.uses(FORECAST) and (name not in SMOOTH or sampling.eta):
        meant = preset_values(settings.preset).get("step_cache") == settings.step_cache
        asked = f"--step-cache {cache}{f', which --preset {settings.preset} stands for,' if meant else ''}"
        if name in SMOOTH:
            raise UsageError(
                f"{asked} does not go with --eta {sampling.eta:g}, by which the sampler {name} adds noise",
                "use --eta 0, or --step-cache none",
            )
        raise UsageError(
            f"{asked} does not go with {'--scheduler' if settings.scheduler else 'the sampler'} {name}, which adds "
            "noise, or calls the UNet twice a step",
            "use --scheduler euler or dpm++, or --step-cache none",
        )
    return cache


def computed(every: int, kinds: Sequence[Hashable], first: int) -> list[bool]:
    """Which steps compute everything: the `first` ones of a kind, and one in `every` after that."""
    found: list[bool] = []
    done = since = 0
    for step, kind in enumerate(kinds):
        if step and kind != kinds[step - 1]:
            done = 0
        new = done < first or since == every
        found.append(new)
        done, since = done + new, 1 if new else since + 1
    return found


class DeepStates:
    """Steps between compute the outer blocks of the UNet alone: DeepCache, https://arxiv.org/abs/2312.00858."""

    def __init__(self, every: int, kinds: Sequence[Hashable]):
        self._computed = computed(every, kinds, FIRST[DEEP])
        self._deep: Tensor | None = None

    def __call__(self, unet: Denoiser, given: Callable[[], UNetInputs], step: int) -> Tensor:
        from ipa_cli.unet.inputs import DeepStates

        noise: Tensor
        if self._computed[step]:
            noise, self._deep = unet(replace(given(), deep=DeepStates()))
        else:
            noise = unet(replace(given(), deep=DeepStates(self._deep)))
        return noise


class Forecasts:
    """Steps between do without the UNet: a line through what it predicted last goes on.

    It is the forecast of TaylorSeer (https://arxiv.org/abs/2503.06923) by a first difference, of the output alone, and
    AB-Cache of second order (https://arxiv.org/abs/2504.10540).
    """

    def __init__(self, every: int, kinds: Sequence[Hashable]):
        self._computed = computed(every, kinds, FIRST[FORECAST])
        self._known: list[tuple[int, Tensor]] = []  # step and noise of the last two calls, the newest first

    def __call__(self, unet: Denoiser, given: Callable[[], UNetInputs], step: int) -> Tensor:
        if self._computed[step]:
            noise: Tensor = unet(given())
            self._known = [(step, noise), *self._known[:1]]
            return noise
        (at, last), (before, earlier) = self._known
        return last + (step - at) / (at - before) * (last - earlier)
