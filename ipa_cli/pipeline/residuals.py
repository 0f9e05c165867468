"""ControlNets beside the UNet: what they make of prompt and maps once, and their residuals at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ipa_cli.hardware import devices
from ipa_cli.pipeline.control import Control
from ipa_cli.pipeline.span import counts

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.backends.base import Denoiser
    from ipa_cli.models.architectures.base import PromptEmbeds
    from ipa_cli.models.loader import Model
    from ipa_cli.pipeline.task import Request
    from ipa_cli.unet.inputs import Context, ControlInputs, ControlResiduals, UNetInputs


@dataclass(frozen=True)
class ControlConditions:
    """What one ControlNet is given at every step, see `ControlInputs`; `scale` is 0 where a row has no residuals."""

    control: Control
    context: Context
    hint: Tensor
    kind: Tensor | None
    scale: Tensor
    latent_channels: int


def condition(model: Model, text: PromptEmbeds, request: Request) -> tuple[ControlConditions, ...]:
    """What each ControlNet makes of the prompt and of its map, once for all steps; with guidance in both halves."""
    import numpy as np
    import torch

    from ipa_cli.unet import attention

    found, none = [], attention.Adapters((), ())
    for control in request.controls:
        network = model.controls[control.network]
        context = attention.project(network, none, text.hidden)
        picture = control.map((request.width, request.height))
        pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)[None]
        with torch.no_grad():
            hint, kind = network.hint(devices.sent(pixels, text.hidden.device, network.dtype), control.kind)
        rows = len(text.hidden)
        scale = torch.ones(rows, 1, 1, 1, device=hint.device)
        if network.config.global_pool_conditions and request.guided:
            scale[: rows // 2] = 0  # as diffusers, which gives pooled residuals to the positive half alone
        hint = hint.expand(rows, -1, -1, -1).contiguous()
        kind = None if kind is None else kind.expand(rows, -1).contiguous()
        latents = model.architecture.latent_channels
        found.append(ControlConditions(control, context, hint, kind, scale, latents))
    return tuple(found)


def changed(one: ControlConditions, change: Callable[[Tensor, int], Tensor]) -> ControlConditions:
    """The same for another batch, see `denoise.for_several`."""
    return replace(
        one,
        context=one.context._replace(text=[change(pair, 1) for pair in one.context.text]),
        hint=change(one.hint, 0),
        kind=None if one.kind is None else change(one.kind, 0),
        scale=change(one.scale, 0),
    )


def joined(each: Sequence[ControlConditions], batch: Callable[[Sequence[Tensor], int], Tensor]) -> ControlConditions:
    """Those of one ControlNet for several pictures as those of a batch, which `batch` makes along a dimension."""
    first, contexts = each[0], [one.context for one in each]
    text = [batch([context.text[layer] for context in contexts], 1) for layer in range(len(first.context.text))]
    kinds = [one.kind for one in each if one.kind is not None]
    return replace(
        first,
        context=first.context._replace(text=text),
        hint=batch([one.hint for one in each], 0),
        kind=batch(kinds, 0) if kinds else None,
        scale=batch([one.scale for one in each], 0),
    )


def inputs(one: ControlConditions, given: UNetInputs) -> ControlInputs:
    """The inputs of a ControlNet beside a call of the UNet, which may see more than latents; at a scale of 1."""
    from ipa_cli.unet.inputs import ControlInputs

    latents = one.latent_channels
    sample = given.sample if given.sample.shape[1] == latents else given.sample[:, :latents].contiguous()
    return ControlInputs(sample, given.timestep, one.context, one.hint, one.scale, given.added, one.kind)


def acting(controls: Sequence[ControlConditions], step: int, steps: int) -> list[int]:
    """The numbers of the ControlNets that act in a step."""
    return [number for number, one in enumerate(controls) if counts(one.control.start, one.control.end, step, steps)]


class Residuals:
    """Adds residuals to the inputs of a UNet call: the sum over the ControlNets that act in a step, else zeros."""

    def __init__(self, controls: Sequence[ControlConditions], denoisers: Sequence[Denoiser], steps: int):
        self._controls, self._denoisers, self._steps = controls, denoisers, steps
        self._scales = [one.scale * one.control.scale for one in controls]
        self._zeros: ControlResiduals | None = None

    def __call__(self, given: UNetInputs, step: int | None) -> UNetInputs:
        """The same with those of a step; None is one in which all act."""
        if not self._denoisers:
            return given
        numbers = range(len(self._controls)) if step is None else acting(self._controls, step, self._steps)
        if not numbers:
            return replace(given, control=self._nothing(given))
        found = [self._made(number, given, self._scales[number]) for number in numbers]
        return replace(given, control=_sum(found))

    def _made(self, number: int, given: UNetInputs, scale: Tensor) -> ControlResiduals:
        made: ControlResiduals = self._denoisers[number](replace(inputs(self._controls[number], given), scale=scale))
        return made

    def _nothing(self, given: UNetInputs) -> ControlResiduals:
        """Zeros, so that one graph of the UNet serves all steps; the first ControlNet knows their shapes."""
        from torch.utils import _pytree as pytree

        if self._zeros is None:
            import torch

            self._zeros = pytree.tree_map(torch.zeros_like, self._made(0, given, self._scales[0] * 0))
        return self._zeros


def _sum(each: Sequence[ControlResiduals]) -> ControlResiduals:
    """The sum, in the order of diffusers' `MultiControlNetModel`."""
    total = each[0]
    for more in each[1:]:
        down = tuple(one + other for one, other in zip(total.down, more.down, strict=True))
        total = replace(total, down=down, mid=total.mid + more.mid)
    return total
