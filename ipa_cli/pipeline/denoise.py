"""From noise to latents: the denoising loop, as in diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ipa_cli.hardware import devices
from ipa_cli.hardware.timing import StepClock
from ipa_cli.pipeline import residuals, step_cache
from ipa_cli.pipeline.residuals import ControlConditions
from ipa_cli.pipeline.span import counts

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.backends.base import Denoiser
    from ipa_cli.models.architectures.base import Architecture
    from ipa_cli.pipeline.sampler import Sampler
    from ipa_cli.pipeline.start import Start
    from ipa_cli.pipeline.task import Request
    from ipa_cli.unet.inputs import Context, UNetInputs


@dataclass(frozen=True)
class Conditions:
    """What steers the UNet, made once per prompt and reference: see `inputs.Context`.

    `spans` holds for each row of the context's scale the fractions of the steps between which it is not 0. `unguided`
    is the positive half alone, for a request with guidance in part of its steps; `guided`: there is a negative half.
    """

    architecture: Architecture
    context: Context
    pooled: Tensor | None  # (B, pooled), see `PromptEmbeds`
    spans: tuple[tuple[float, float], ...] = ()
    unguided: Conditions | None = None
    controls: tuple[ControlConditions, ...] = ()
    guided: bool = False


class Networks(NamedTuple):
    """What a step calls: the UNet, and the ControlNet of each of the conditions' controls."""

    unet: Denoiser
    controls: tuple[Denoiser, ...] = ()


def scales(conditions: Conditions, steps: int) -> list[Tensor]:
    """The context's scale at each step, (rows, layers): 0 outside a row's span."""
    import torch

    scale, made = conditions.context.scale, {}
    patterns = [tuple(counts(start, end, step, steps) for start, end in conditions.spans) for step in range(steps)]
    for pattern in set(patterns):
        made[pattern] = scale if all(pattern) else scale * devices.sent(torch.tensor(pattern), scale.device)[:, None]
    return [made[pattern] for pattern in patterns]


def for_several(conditions: Conditions, pictures: int) -> Conditions:
    """The same conditions for several pictures in one UNet call; with guidance all negative halves come first."""
    if pictures == 1:
        return conditions
    return _changed(conditions, lambda tensor, dim: tensor.repeat_interleave(pictures, dim))


def tensors(conditions: Conditions) -> list[Tensor]:
    """All tensors of conditions."""
    from ipa_cli.unet import inputs

    found = inputs.tensors((conditions.context, conditions.pooled))
    for one in conditions.controls:
        found += inputs.tensors((one.context, one.hint, one.kind, one.scale))
    return found if conditions.unguided is None else found + tensors(conditions.unguided)


def positive_half(conditions: Conditions) -> Conditions:
    """The conditions of the same pictures without guidance."""
    half = _changed(conditions, lambda tensor, dim: tensor.chunk(2, dim)[1].contiguous())
    return replace(half, guided=False)


def _changed(conditions: Conditions, change: Callable[[Tensor, int], Tensor]) -> Conditions:
    """Conditions with another batch: `change(tensor, dim)` makes it, where `dim` is the dimension of the batch."""
    context, pooled = conditions.context, conditions.pooled
    return replace(
        conditions,
        context=context._replace(
            text=[change(pair, 1) for pair in context.text],
            regions=[[change(pair, 1) for pair in region] for region in context.regions],
            image=[[change(pair, 1) for pair in adapter] for adapter in context.image],
        ),
        pooled=None if pooled is None else change(pooled, 0),
        controls=tuple(residuals.changed(one, change) for one in conditions.controls),
    )


def unet_inputs(request: Request, conditions: Conditions, sample: Tensor, timestep: Tensor) -> UNetInputs:
    """The inputs of one UNet call; `sample`, (pictures, 4, h, w), is repeated until the conditions have their fill."""
    from ipa_cli.unet.inputs import UNetInputs

    batch = conditions.context.text[0].shape[1]
    added = conditions.architecture.added_conditions(conditions.pooled, request.width, request.height)
    return UNetInputs(sample.repeat(batch // len(sample), 1, 1, 1), timestep, conditions.context, added)


def denoise(
    request: Request,
    conditions: Conditions,
    networks: Networks,
    sampler: Sampler,
    start: Start,
    clock: StepClock,
    advance: Callable[[], None],
    unguided: Networks | None = None,
) -> Tensor:
    """Go through the sampler's steps; returns the latents of the pictures, (pictures, channels, h, w).

    With guidance in part of the steps, the others call `unguided` with `Conditions.unguided`. Where an area of a
    picture is redrawn, the rest of it, as noisy as they are, joins the latents after each step. What `--step-cache`
    keeps serves as long as the same adapters and ControlNets act, all with guidance or without.
    """
    import torch

    timesteps = devices.sent(torch.tensor(sampler.timesteps), start.noise.device)
    scale = scales(conditions, len(timesteps))
    latents = sampler.begin(start.noise, None if request.init is not None and request.init.from_noise else start.image)
    guided = request.guided_steps(len(timesteps))
    each = {request.guided: (networks, conditions)}
    if conditions.unguided is not None and unguided is not None:
        each[False] = unguided, conditions.unguided
    calls = {
        kind: (
            called.unet,
            unet_inputs(request, own, start.seen(latents), timesteps[0]),
            residuals.Residuals(own.controls, called.controls, len(timesteps)),
        )
        for kind, (called, own) in each.items()
    }
    kinds = [
        (kind, id(one), *residuals.acting(conditions.controls, step, len(timesteps)))
        for step, (kind, one) in enumerate(zip(guided, scale, strict=True))
    ]
    cached = step_cache.calls(request.step_cache, kinds)
    clock.mark()
    for step in range(len(timesteps)):
        call, template, add = calls[guided[step]]
        sample = start.seen(sampler.scaled(latents, step))
        sample = sample.repeat(len(template.sample) // len(latents), 1, 1, 1)
        context = template.context._replace(scale=scale[step])
        given = replace(template, sample=sample, timestep=timesteps[step], context=context)
        predicted = cached(call, partial(add, given, step), step)
        if guided[step]:
            predicted = _guided(predicted, request.guidance_scale, request.guidance_rescale)
        latents = sampler.after(latents, predicted, step)
        if start.mask is not None and start.image is not None:
            # The mask is 0 or 1, so that the sampler's recurrence still holds where it is 1.
            kept = sampler.noisy(start.image, start.noise, step)
            latents = (1 - start.mask) * kept + start.mask * latents
        clock.mark()
        advance()
    return latents


def _guided(predicted: Tensor, scale: float, rescale: float) -> Tensor:
    """The prediction that both halves, the negative one first, make together.

    `rescale` takes it towards the deviation of the positive half: section 3.4 of https://arxiv.org/abs/2305.08891, and
    diffusers' `rescale_noise_cfg`.
    """
    negative, positive = predicted.chunk(2)
    joined = negative + scale * (positive - negative)
    if not rescale:
        return joined
    axes = list(range(1, joined.ndim))
    alike = joined * (positive.std(axes, keepdim=True) / joined.std(axes, keepdim=True))
    return rescale * alike + (1 - rescale) * joined
