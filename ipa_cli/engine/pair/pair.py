"""The drawing process's side of a pair: keeps the UNet of the second process equal, and shares each call with it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ipa_cli.config import Settings
from ipa_cli.config.values import settings_as_json
from ipa_cli.engine.content import LRU
from ipa_cli.engine.pair.link import kind
from ipa_cli.engine.pair.process import MEETING, PREPARING, SecondProcess
from ipa_cli.engine.ready import Ready
from ipa_cli.hardware import second_gpu
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ipa_cli.backends.base import Denoiser
    from ipa_cli.models.plan import Plan
    from ipa_cli.pipeline.denoise import Conditions
    from ipa_cli.unet.inputs import Context, UNetInputs

LASTING = ("text", "image", "mask", "regions", "share")  # of a context: all that does not change between steps
KEPT = 16  # denoisers for shapes of inputs, those used last


@contextmanager
def starting(settings: Settings) -> Iterator[Pair | None]:
    """The pair that the settings ask for, which is closed again where what follows fails."""
    pair = Pair() if settings.gpus > 1 else None
    try:
        yield pair
    except BaseException:
        if pair is not None:
            pair.close()
        raise


class Pair:
    """A process for a second device, and what it was told. One thread works with it at a time."""

    def __init__(self) -> None:
        self.process = SecondProcess()
        self._unet: Any = None
        self._weights: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._sent: tuple[Any, ...] = (None,) * len(LASTING)  # what the other process has
        self._own: Context
        self._prepared = 0
        self._halved: LRU[Ready] = LRU(KEPT)

    def begin(
        self, settings: Settings, plan: Plan, device: torch.device, dtype: torch.dtype, reporter: Reporter
    ) -> None:
        """Have the other process make its UNet and meet this one, which may load the model meanwhile.

        Raises IpaError where there is no second GPU.
        """
        second = second_gpu.after(device, settings.device == "cpu", reporter)
        if settings.cache_dir is not None:
            settings = replace(settings, cache_dir=settings.cache_dir.absolute())
        job = {
            "dtype": str(dtype).removeprefix("torch."),
            "unet": dict(plan.unet_config),
            "settings": settings_as_json(settings),
            "model": plan.name,
            "latent_factor": plan.architecture.latent_factor,
        }
        self.process.begin(device, second, job)

    def share(self, unet: Any) -> None:
        """Give the other process the weights of `unet`, whose changes it gets before each call from now on."""
        with self.process.exchange(MEETING):
            self.process.wait_until_met()
            self._unet = unet
            self.find_weights()
            self._share_weights()

    def find_weights(self) -> None:
        """Look at the UNet's weights anew: a graph that was opened has put some of them together in other tensors."""
        before, self._weights = self._weights, dict(self._unet.named_parameters())
        for name, weight in self._weights.items():
            if weight is not before.get(name):
                self._versions.pop(name, None)

    def prepared(
        self,
        shape: Hashable,
        conditions: Conditions,
        half: Callable[[Conditions], Ready],
        example: Callable[[], UNetInputs],
    ) -> Ready:
        """A denoiser for conditions with guidance, kept by `shape`: `half` makes that of this process."""
        from ipa_cli.pipeline.denoise import positive_half

        return self._halved.get(shape, lambda: self._prepare(half(positive_half(conditions)), example()))

    def _prepare(self, own: Ready, example: UNetInputs) -> Ready:
        with self.process.exchange(PREPARING):
            self._share_weights()
            _, other = self._split(example)
            number = self._prepared = self._prepared + 1
            self.process.send({"prepare": number, "backend": own.backend}, other)
            self.process.wait_until_ready(number)
        # The times are those of the graph, which steps without guidance use too.
        return replace(own, denoiser=lambda inputs: self.call(number, own.denoiser, inputs))

    def call(self, number: int, denoiser: Denoiser, inputs: UNetInputs) -> Tensor:
        """The noise of both halves: the negative one's from `denoiser`, while the other process computes its own."""
        import torch

        with self.process.exchange():
            self._share_weights()
            own, other = self._split(inputs)
            self.process.send({"call": number}, other)
            noise = denoiser(own)
            return torch.cat([noise, *self.process.receive([kind(noise)])])

    def close(self) -> None:
        """End the other process."""
        self.process.close()

    def _share_weights(self) -> None:
        """Send the weights that have changed in place since the last time, as by a LoRA."""
        versions = {name: weight._version for name, weight in self._weights.items()}
        names = [name for name, version in versions.items() if self._versions.get(name) != version]
        if names:
            self.process.tell({"weights": names})
            self.process.send_tensors([self._weights[name] for name in names])
            self._versions = versions

    def _split(self, inputs: UNetInputs) -> tuple[UNetInputs, UNetInputs]:
        """Inputs of this process, and of the other one without keys, values and masks, which go when they are new."""
        from ipa_cli.unet.inputs import Context, halves

        context = inputs.context
        lasting = tuple(getattr(context, name) for name in LASTING)
        if any(one is not sent for one, sent in zip(lasting, self._sent, strict=True)):
            negative, positive = halves(inputs)
            self.process.send({}, positive.context, "context")
            self._own, self._sent = negative.context, lasting
        bare = replace(inputs, context=Context([], [], context.scale))
        own, other = halves(bare)
        return replace(own, context=self._own._replace(scale=context.scale)), other
