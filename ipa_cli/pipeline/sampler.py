"""From what the UNet predicts to the next latents: by a table of numbers, or by a diffusers scheduler itself."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ipa_cli.hardware import devices
from ipa_cli.models.diffusers_schedulers import begin
from ipa_cli.models.schedule import Schedule, combined, mix
from ipa_cli.models.schedulers import Sampling

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Sampler(Protocol):
    """The steps of some pictures, to be gone through once in their order."""

    timesteps: Sequence[float]

    def begin(self, noise: Tensor, image: Tensor | None = None) -> Tensor:
        """The first latents, (B, channels, h, w), of noise with a deviation of 1, and of the latents of a picture."""

    def noisy(self, image: Tensor, noise: Tensor, step: int) -> Tensor:
        """The latents of a picture as noisy as those after a step."""

    def scaled(self, latents: Tensor, step: int) -> Tensor:
        """What the UNet is given."""

    def after(self, latents: Tensor, prediction: Tensor, step: int) -> Tensor:
        """The latents after a step; on a GPU nothing waits for the device."""


def of(found: Schedule | Any, sampling: Sampling, steps: int, generators: Sequence[torch.Generator]) -> Sampler:
    """The sampler of a table, or of a diffusers scheduler where there is none.

    There is a generator for each picture, from which the noise that it begins with was drawn, as in diffusers.
    """
    if isinstance(found, Schedule):
        return TableSampler(found, generators)
    return SchedulerSampler(found, sampling, steps, generators)


class TableSampler:
    """A `Schedule`; latents are rounded to their dtype after each step, as diffusers does."""

    def __init__(self, schedule: Schedule, generators: Sequence[torch.Generator]):
        self.schedule, self._generators = schedule, generators
        self.timesteps: Sequence[float] = [step.timestep for step in schedule.steps]
        self._latents: list[Tensor] = []
        self._predictions: list[Tensor] = []

    def begin(self, noise: Tensor, image: Tensor | None = None) -> Tensor:
        if image is None:
            return noise * self.schedule.init_noise_sigma
        return _mixed(image, noise, self.schedule.mixes[0])

    def noisy(self, image: Tensor, noise: Tensor, step: int) -> Tensor:
        return _mixed(image, noise, self.schedule.mixes[step + 1])

    def scaled(self, latents: Tensor, step: int) -> Tensor:
        scale = self.schedule.steps[step].scale
        return latents if scale == 1 else latents * scale

    def after(self, latents: Tensor, prediction: Tensor, step: int) -> Tensor:
        how = self.schedule.steps[step]
        self._latents = [latents.float(), *self._latents[: len(how.latents)]]
        self._predictions = [prediction.float(), *self._predictions]
        del self._latents[4:], self._predictions[4:]
        found = combined(how, self._latents, self._predictions)
        if how.noise is not None:
            found = found + how.noise * _fresh(self._generators, latents).float()
        return found.to(latents.dtype)


class SchedulerSampler:
    """A diffusers scheduler that is no table. It keeps its numbers on the CPU, as scalars of the kernels it starts."""

    def __init__(self, scheduler: Any, sampling: Sampling, steps: int, generators: Sequence[torch.Generator]):
        if "noise_sampler_seed" in scheduler.config:  # a Brownian tree for each picture
            seeds = [generator.initial_seed() for generator in generators]
            scheduler = type(scheduler).from_config(scheduler.config, noise_sampler_seed=seeds)
        self.scheduler = scheduler
        self._timesteps, self._extra = begin(scheduler, sampling, steps)
        self.timesteps: Sequence[float] = [float(timestep) for timestep in self._timesteps]
        if "generator" in inspect.signature(scheduler.step).parameters:
            self._extra["generator"] = list(generators)

    def begin(self, noise: Tensor, image: Tensor | None = None) -> Tensor:
        if image is None:
            return noise * self.scheduler.init_noise_sigma
        return _mixed(image, noise, mix(self.scheduler, self._timesteps[0]))

    def noisy(self, image: Tensor, noise: Tensor, step: int) -> Tensor:
        if step + 1 == len(self._timesteps):
            return image
        return _mixed(image, noise, mix(self.scheduler, self._timesteps[step + 1]))

    def scaled(self, latents: Tensor, step: int) -> Tensor:
        return self.scheduler.scale_model_input(latents, self._timesteps[step])

    def after(self, latents: Tensor, prediction: Tensor, step: int) -> Tensor:
        timestep = self._timesteps[step]
        return self.scheduler.step(prediction, timestep, latents, **self._extra, return_dict=False)[0].to(latents.dtype)


def _mixed(image: Tensor, noise: Tensor, factors: tuple[float, float]) -> Tensor:
    return image * factors[0] + noise * factors[1]


def _fresh(generators: Sequence[torch.Generator], latents: Tensor) -> Tensor:
    """Noise for each picture, drawn on the CPU, so that a seed means the same on every device."""
    import torch

    shape = (1, *latents.shape[1:])
    fresh = torch.cat([torch.randn(shape, generator=one, dtype=latents.dtype) for one in generators])
    return devices.sent(fresh, latents.device)
