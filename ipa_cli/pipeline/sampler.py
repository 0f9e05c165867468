"""From what the UNet predicts to the next latents: by a table of numbers, or by a diffusers scheduler itself."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ipa_cli.models.diffusers_schedulers import begin
from ipa_cli.models.schedule import Schedule, combined
from ipa_cli.models.schedulers import Sampling

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Sampler(Protocol):
    """The steps of some pictures, to be gone through once in their order."""

    timesteps: Sequence[float]

    def begin(self, noise: Tensor) -> Tensor:
        """The first latents, (B, channels, h, w), of noise with a deviation of 1."""

    def scaled(self, latents: Tensor, step: int) -> Tensor:
        """What the UNet is given."""

    def after(self, latents: Tensor, prediction: Tensor, step: int) -> Tensor:
        """The latents after a step; on a GPU nothing waits for the device."""


def of(found: Schedule | Any, sampling: Sampling, steps: int, seeds: Sequence[int]) -> Sampler:
    """The sampler of a table, or of a diffusers scheduler where there is none; a picture for each seed."""
    if isinstance(found, Schedule):
        return TableSampler(found, seeds)
    return SchedulerSampler(found, sampling, steps, seeds)


class TableSampler:
    """A `Schedule`; latents are rounded to their dtype after each step, as diffusers does."""

    def __init__(self, schedule: Schedule, seeds: Sequence[int]):
        self.schedule, self.seeds = schedule, seeds
        self.timesteps: Sequence[float] = [step.timestep for step in schedule.steps]
        self._latents: list[Tensor] = []
        self._predictions: list[Tensor] = []
        self._generators: list[torch.Generator] = []

    def begin(self, noise: Tensor) -> Tensor:
        if any(step.noise is not None for step in self.schedule.steps):
            self._generators = [_after_the_noise(seed, noise) for seed in self.seeds]
        return noise * self.schedule.init_noise_sigma

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

    def __init__(self, scheduler: Any, sampling: Sampling, steps: int, seeds: Sequence[int]):
        if "noise_sampler_seed" in scheduler.config:  # a Brownian tree for each picture
            scheduler = type(scheduler).from_config(scheduler.config, noise_sampler_seed=list(seeds))
        self.scheduler, self.seeds = scheduler, seeds
        self._extra = begin(scheduler, sampling, steps)
        self.timesteps: Sequence[float] = [float(timestep) for timestep in scheduler.timesteps]

    def begin(self, noise: Tensor) -> Tensor:
        if "generator" in inspect.signature(self.scheduler.step).parameters:
            self._extra["generator"] = [_after_the_noise(seed, noise) for seed in self.seeds]
        return noise * self.scheduler.init_noise_sigma

    def scaled(self, latents: Tensor, step: int) -> Tensor:
        return self.scheduler.scale_model_input(latents, self.scheduler.timesteps[step])

    def after(self, latents: Tensor, prediction: Tensor, step: int) -> Tensor:
        timestep = self.scheduler.timesteps[step]
        return self.scheduler.step(prediction, timestep, latents, **self._extra, return_dict=False)[0].to(latents.dtype)


def _after_the_noise(seed: int, latents: Tensor) -> torch.Generator:
    """The generator of a picture: as in diffusers its first numbers went into the noise it began with."""
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    torch.randn((1, *latents.shape[1:]), generator=generator, dtype=latents.dtype)
    return generator


def _fresh(generators: Sequence[torch.Generator], latents: Tensor) -> Tensor:
    """Noise for each picture, drawn on the CPU, so that a seed means the same on every device."""
    import torch

    shape = (1, *latents.shape[1:])
    return torch.cat([torch.randn(shape, generator=one, dtype=latents.dtype) for one in generators]).to(latents.device)
