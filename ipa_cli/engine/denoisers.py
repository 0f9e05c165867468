"""The networks of a loaded model as denoisers: made ready once for each shape of their inputs, and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from ipa_cli import backends
from ipa_cli.backends import AUTO
from ipa_cli.config import Settings
from ipa_cli.engine import graphs
from ipa_cli.engine.access import Access
from ipa_cli.engine.backend_choice import resolve
from ipa_cli.engine.content import LRU
from ipa_cli.engine.pair.pair import Pair
from ipa_cli.engine.ready import Ready
from ipa_cli.engine.store import graph_store
from ipa_cli.models.plan import Plan
from ipa_cli.pipeline import residuals
from ipa_cli.pipeline.task import Request
from ipa_cli.result import NullReporter, Reporter

if TYPE_CHECKING:
    from ipa_cli.models.loader import Model
    from ipa_cli.pipeline.denoise import Conditions, Networks
    from ipa_cli.pipeline.residuals import ControlConditions
    from ipa_cli.unet.inputs import ControlInputs, UNetInputs

Size = tuple[int, int]  # width and height of a picture in pixels
SHAPES = 16  # shapes of inputs whose graphs are kept open for each network, those used last


class Denoisers:
    """The UNet and the ControlNets of a model, handed to backends; `opening` surrounds opening and compiling.

    With a `pair` calls of the UNet that have guidance are divided among two GPUs.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        model: Model,
        access: Access,
        reporter: Reporter,
        opening: Callable[[], AbstractContextManager[None]],
        pair: Pair | None = None,
    ):
        self._settings, self._plan, self._model, self._access = settings, plan, model, access
        self._reporter, self._opening, self._pair = reporter, opening, pair
        self._ready: LRU[Ready] = LRU(SHAPES)
        self._controls: dict[int, LRU[Ready]] = {}  # by the number of the ControlNet

    @property
    def opened(self) -> list[Ready]:
        """All that are kept, each once: the UNet's first."""
        return [one for each in (self._ready, *self._controls.values()) for one in _distinct(each)]

    def clear(self) -> None:
        """Let go of all graphs."""
        self._ready.clear()
        self._controls.clear()

    def compile(
        self, request: Request, conditions: Conditions, options: Mapping[str, Any], made: Sequence[Ready]
    ) -> list[Ready]:
        """See `Engine.compile`; those of `made` may serve again."""
        factor, store, found = self._model.architecture.latent_factor, graph_store(self._settings), list(made)
        for each in filter(None, (conditions, conditions.unguided)):
            example = self.example(request, each)
            networks: dict[int, tuple[Any, str, Any]] = {-1: (self._model.unet, self._plan.name, example)}
            for one in each.controls:  # one of two with maps of their own
                network = one.control.network
                inputs = residuals.inputs(one, example)
                networks[network] = self._model.controls[network], str(self._plan.controls[network]), inputs
            for module, name, inputs in networks.values():
                wanted = graphs.Wanted(self.backend, name, inputs, options, (), factor)
                found.append(graphs.prepare(module, wanted, store, True, self._reporter, found))
        return found[len(made) :]

    @property
    def backend(self) -> str:
        """The one asked for, or auto."""
        return resolve(self._settings.backend, self._settings.precision)

    def example(self, request: Request, conditions: Conditions) -> UNetInputs:
        """The inputs of a UNet call as a step makes it, without those of ControlNets."""
        import torch

        from ipa_cli.pipeline import start
        from ipa_cli.pipeline.denoise import unet_inputs

        timestep = torch.tensor(500.0, device=self._access.device)
        sample = start.example(
            request, self._model.architecture, self._model.unet, self._access.device, self._model.unet.dtype
        )
        return unet_inputs(request, conditions, sample, timestep)

    def of_unet(
        self, request: Request, conditions: Conditions, backend: str | None = None, other_size: Size | None = None
    ) -> Ready:
        """The UNet's, for inputs of the shape that these conditions have."""
        context = conditions.context
        tokens = context.text[0].shape, *(adapter[0].shape for adapter in context.image)
        shape = (request.width, request.height, *tokens, bool(context.mask), len(context.regions))
        example = partial(self.example, request, conditions)
        if self._pair is not None and conditions.guided:
            half = partial(self.of_unet, request, backend=backend, other_size=other_size)
            return self._pair.prepared(shape, conditions, half, example)
        return self._opened(
            self._ready, shape, request, self._model.unet, self._plan.name, example, backend, other_size
        )

    def of_controls(
        self, request: Request, conditions: Conditions, backend: str | None = None, other_size: Size | None = None
    ) -> list[Ready]:
        """The denoiser of each of a request's ControlNets; those with the same one share it."""
        found = []
        for one in conditions.controls:
            number, shape = (
                one.control.network,
                (request.width, request.height, one.hint.shape, *(pair.shape for pair in one.context.text[:1])),
            )

            def example(given: ControlConditions = one) -> ControlInputs:
                return residuals.inputs(given, self.example(request, conditions))

            network, name = self._model.controls[number], str(self._plan.controls[number])
            kept = self._controls.setdefault(number, LRU(SHAPES))
            found.append(self._opened(kept, shape, request, network, name, example, backend, other_size))
        return found

    def networks(self, request: Request, conditions: Conditions) -> Networks:
        """What a step under these conditions calls."""
        from ipa_cli.pipeline.denoise import Networks

        controls = self.of_controls(request, conditions)
        return Networks(self.of_unet(request, conditions).denoiser, tuple(one.denoiser for one in controls))

    def _opened(
        self,
        kept: LRU[Ready],
        shape: tuple[Any, ...],
        request: Request,
        network: Any,
        name: str,
        example: Callable[[], UNetInputs | ControlInputs],
        backend: str | None,
        other_size: Size | None,
    ) -> Ready:
        """A denoiser for inputs of this shape, of those `kept` for the same network or a new one."""
        made = []

        def prepare() -> Ready:
            with self._access.working("preparing"), self._opening():
                made.append(
                    self._prepare(request, network, name, example, _distinct(kept), backend or self.backend, other_size)
                )
            return made[0]

        ready = kept.get(shape, prepare)
        if made:
            if self._pair is not None and network is self._model.unet:
                self._pair.find_weights()
            self._access.publish(graphs=tuple({"backend": one.backend, **one.facts} for one in self.opened))
        return ready

    def _prepare(
        self,
        request: Request,
        network: Any,
        name: str,
        inputs: Callable[[], UNetInputs | ControlInputs],
        opened: Sequence[Ready],
        backend: str,
        other_size: Size | None,
    ) -> Ready:
        if request.batch_size > 1 and backend != AUTO:  # it chooses a backend that can
            backends.require(backend, "batch")
        if request.loras:
            backends.require(backend, "loras")
        if self._access.offload != "none":
            backends.require(backend, "offload")
            if opened:
                return opened[0]
            chosen = backends.UNCOMPILED if backend == AUTO else backend
            said = self._reporter if network is self._model.unet else NullReporter()  # once for all networks
            return graphs.prepare_offloaded(network, chosen, said)

        settings, factor = self._settings, self._model.architecture.latent_factor
        given = network, inputs(), name, settings, graph_store(settings), self._reporter, opened
        if backend == AUTO:
            return graphs.choose(*given, factor, other_size)
        return graphs.prepare_asked(backend, *given, factor, other_size)


def _distinct(kept: LRU[Ready]) -> list[Ready]:
    """Each graph once, whatever number of shapes it serves."""
    return list({id(ready): ready for ready in kept.values()}.values())
