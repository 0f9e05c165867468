"""A loaded model that draws: opened once, then asked for pictures of any size, prompt, reference, scale and sampler."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ipa_cli import backends
from ipa_cli.backends import AUTO
from ipa_cli.cache import StoreError
from ipa_cli.config import Settings
from ipa_cli.engine import decoders, graphs, schedules, together
from ipa_cli.engine.access import Access, State
from ipa_cli.engine.backend_choice import check_capabilities, resolve
from ipa_cli.engine.content import LRU
from ipa_cli.engine.decoders import Decoder
from ipa_cli.engine.drawing import Drawing
from ipa_cli.engine.encodings import Encodings, distinct
from ipa_cli.engine.graphs import Ready
from ipa_cli.engine.store import graph_store
from ipa_cli.hardware import cores, devices, preload, timing
from ipa_cli.models.plan import Plan
from ipa_cli.models.schedule import Schedule
from ipa_cli.models.schedulers import Sampling
from ipa_cli.pipeline.task import Request
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    from ipa_cli.models.loader import Model
    from ipa_cli.pipeline.conditioning import Embeds
    from ipa_cli.pipeline.denoise import Conditions, Decode
    from ipa_cli.unet.inputs import UNetInputs

SHAPES = 16  # shapes of inputs whose graphs are kept open, those used last; tables of steps, those made last


class Engine:
    """A loaded model on a device, and the graphs that were opened for it.

    What belongs to the model is fixed when it is opened, by `settings`; what belongs to pictures comes with each
    `Request`. One thread works with it at a time, others wait; `state` may be read meanwhile.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        reporter: Reporter,
        opening: Callable[[], AbstractContextManager[None]] = nullcontext,
    ):
        self.settings, self.plan, self.reporter, self._opening = settings, plan, reporter, opening
        self.device = devices.pick_device(settings.device)
        self.dtype = devices.pick_dtype(settings.dtype, self.device)
        self.offload = "none" if self.device.type == "cpu" else settings.offload
        self._access = Access(self.device, self.offload, settings.vae_tiling)
        self._encodings: Encodings
        self._ready: LRU[Ready] = LRU(SHAPES)
        self._decoders: LRU[Decoder | None] = LRU(SHAPES)
        self._schedules: dict[tuple[Sampling, int], Schedule] = {}

    @classmethod
    def open(
        cls,
        settings: Settings,
        plan: Plan,
        reporter: Reporter,
        shows_bars: bool = False,
        alone: bool = False,
        opening: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Engine:
        """Load the model onto the device, or into main memory when it is offloaded.

        On a CPU it then takes the threads that fit beside other programs; all of them if `alone` counts, as in a bench.
        `opening` surrounds the opening and compiling of each graph.
        Raises UsageError, before the long work, for a backend that cannot do on this device what the settings ask.
        """
        began = cores.snapshot()
        with reporter.stage(f"loading {plan.name}") as doing:
            doing("torch")
            engine = cls(settings, plan, reporter, opening)
            check_capabilities(settings, engine.device, engine.offload)
            doing("weights")
            engine._load(shows_bars)
        if engine.device.type == "cpu":
            cores.fit(0.0 if alone else cores.others(began), reporter)
        return engine

    @classmethod
    def open_encoders(cls, settings: Settings, plan: Plan, reporter: Reporter, shows_bars: bool = False) -> Engine:
        """Load the image encoders alone, for `embed`: nothing can be drawn."""
        from ipa_cli.models import loader

        engine = cls(replace(settings, offload="none"), plan, reporter)
        with engine._access.working("loading"):
            engine._take(loader.load_encoders(plan, engine.device, engine.dtype, reporter, shows_bars))
        return engine

    def _load(self, shows_bars: bool) -> None:
        from ipa_cli.models import loader

        with self._access.working("loading"):
            import torch

            home = self.device if self.offload == "none" else torch.device("cpu")
            with preload.first_calls(self.device, self.dtype):
                model = loader.load(self.plan, self.device, home, self.dtype, self.reporter, shows_bars)
            if self.settings.vae_tiling:
                model.vae.tiling = True
            if self.offload == "sequential":
                encoders = [*model.text_encoders, *distinct(model.image_encoders)]
                devices.offload_sequentially([model.unet, model.vae, *encoders], self.device)
            if self.offload != "none":
                model.adapters.to(self.device)
            self._take(model)

    def _take(self, model: Model) -> None:
        self._encodings = Encodings(model, self._access, self.reporter)
        self._access.publish(encoders=True)

    def close(self) -> None:
        """Give back the memory of the model, its graphs and all that is encoded; nothing can be drawn any more."""
        import gc

        with self._access.lock:
            self._ready.clear()
            self._decoders.clear()
            self._access.publish(graphs=(), encoders=False)
            del self._encodings
            gc.collect()  # modules refer to each other
            if self.device.type == "cuda":
                import torch

                torch.cuda.empty_cache()

    @property
    def model(self) -> Model:
        """The loaded parts; no encoders once they were dropped."""
        return self._encodings.model

    @property
    def state(self) -> State:
        """What it is at, for any thread: one consistent snapshot."""
        return self._access.state

    def memory(self) -> dict[str, float]:
        """GiB in use at most so far: see `timing.memory`."""
        return timing.memory(self.device)

    # --- prompts and references ------------------------------------------------------------------------------------

    def encode(self, requests: Sequence[Request], drop_encoders: bool = False) -> None:
        """Encode the prompts and references of `requests`, which are all kept from now on: see `Encodings.encode`."""
        self._encodings.encode(requests, drop_encoders)

    def embed(self, request: Request) -> list[tuple[Embeds, Embeds]]:
        """The negative and the positive embeddings of each adapter's references, (images, …)."""
        return self._encodings.embed(request)

    def forget(self) -> None:
        """Let go of all that is encoded: the next request is encoded anew."""
        self._encodings.forget()

    # --- graphs ----------------------------------------------------------------------------------------------------

    def prepare(self, request: Request, backend: str | None = None) -> Ready:
        """Hand the UNet to a backend, once for each shape of its inputs, which is kept.

        With guidance in part of the steps these are two shapes, and both are made ready. The backend is the one asked
        for, here or when the engine was opened, or the best that is ready, with a word on why. Raises what
        `graphs.prepare` does.
        """
        with self._access.lock:
            conditions = self._encodings.conditions(request)
            ready = self._prepared(request, conditions, backend)
            if conditions.unguided is None:
                return ready
            return ready.beside(self._prepared(request, conditions.unguided, backend))

    def compile(self, request: Request, options: Mapping[str, Any]) -> list[Ready]:
        """The graphs for a request with exactly these options of its backend: from the cache, or compiled for it.

        One, or with guidance in part of the steps one for each kind of step.
        """
        with self._access.working("preparing"), self._opening():
            conditions, factor = self._encodings.conditions(request), self.model.architecture.latent_factor
            made = []
            for each in filter(None, (conditions, conditions.unguided)):
                example = self._example(request, each)
                wanted = graphs.Wanted(self._backend, self.plan.name, example, options, (), factor)
                store = graph_store(self.settings)
                made.append(graphs.prepare(self.model.unet, wanted, store, True, self.reporter))
            return made

    def compile_decoder(self, request: Request) -> Decoder | None:
        """The decoder's graph for a request's size, from the cache or compiled; None where the backend has none."""
        if not self._decodes_by_graph(self._backend):
            return None
        with self._access.working("preparing"), self._opening():
            wanted = decoders.Wanted(self._backend, request.width, request.height, self.settings.compile_options)
            store = graph_store(self.settings)
            return decoders.prepare(self.model.vae, wanted, self.plan.name, store, self.reporter)

    def _decodes_by_graph(self, backend: str) -> bool:
        plain = self.offload != "none" or self.settings.vae_tiling
        return not plain and decoders.possible(backend, self.device)

    def _decode(self, request: Request, ready: Ready) -> Decode | None:
        """What decodes pictures of a request that `ready` draws, where its graph is in the cache."""
        if ready.entry is None or not self._decodes_by_graph(ready.backend):
            return None
        wanted = decoders.Wanted(ready.backend, request.width, request.height, self.settings.compile_options)
        store = graph_store(self.settings)
        found = self._decoders.get(wanted, lambda: decoders.find(self.model.vae, wanted, store, self.reporter))
        return None if found is None else found.decode

    def example_inputs(self, request: Request) -> UNetInputs:
        """The inputs of a UNet call as every step of `request` makes it, with guidance where some have none."""
        with self._access.lock:
            return self._example(request, self._encodings.conditions(request))

    @property
    def _backend(self) -> str:
        return resolve(self.settings.backend, self.settings.precision)

    def _example(self, request: Request, conditions: Conditions) -> UNetInputs:
        import torch

        from ipa_cli.pipeline import start
        from ipa_cli.pipeline.denoise import unet_inputs

        timestep = torch.tensor(500.0, device=self.device)
        sample = start.example(request, self.model.architecture, self.model.unet, self.device, self.dtype)
        return unet_inputs(request, conditions, sample, timestep)

    def _prepared(self, request: Request, conditions: Conditions, backend: str | None = None) -> Ready:
        context = conditions.context
        tokens = (context.text[0].shape, *(adapter[0].shape for adapter in context.image), bool(context.mask))
        shape = (request.width, request.height, *tokens)
        made = []

        def prepare() -> Ready:
            with self._access.working("preparing"), self._opening():
                made.append(self._prepare(request, conditions, backend or self._backend))
            return made[0]

        ready = self._ready.get(shape, prepare)
        if made:
            self._access.publish(graphs=tuple({"backend": one.backend, **one.facts} for one in self._opened()))
        return ready

    def _opened(self) -> list[Ready]:
        """Each graph once, whatever number of shapes it serves."""
        return list({id(ready): ready for ready in self._ready.values()}.values())

    def _prepare(self, request: Request, conditions: Conditions, backend: str) -> Ready:
        settings, unet, opened = self.settings, self.model.unet, self._opened()
        if request.batch_size > 1 and backend != AUTO:  # it chooses a backend that can
            backends.require(backend, "batch")
        if request.loras:
            backends.require(backend, "loras")
        if self.offload != "none":
            backends.require(backend, "offload")
            if opened:
                return opened[0]
            return graphs.prepare_offloaded(unet, backends.UNCOMPILED if backend == AUTO else backend, self.reporter)

        example, store = self._example(request, conditions), graph_store(settings)
        factor = self.model.architecture.latent_factor
        if backend == AUTO:
            return graphs.choose(unet, example, self.plan.name, settings, store, self.reporter, opened, factor)
        wanted = graphs.ask(backends.get(backend), backend, self.plan.name, example, settings, factor)
        try:
            return graphs.prepare(unet, wanted, store, settings.compile, self.reporter, opened)
        except StoreError as error:
            if not settings.compile:
                raise
            self.reporter.warn(f"{error.message} ({error.hint}): the graph serves this run alone")
            return graphs.prepare_unkept(unet, wanted, self.reporter)

    def warm_up(self, request: Request) -> float:
        """Call the UNet `warmup` times untimed, so that nothing done once counts as speed; seconds of the first."""
        if not self.settings.warmup:
            return 0.0
        with self.reporter.stage("warming up"):
            first, *_ = [self.time_step(request) for _ in range(self.settings.warmup)]
        return first

    def time_step(self, request: Request) -> float:
        """Call the UNet once, as a step does; seconds until the device is done.

        With guidance in part of the steps it is called once for each kind: seconds of a step on average.
        """
        with self._access.lock:
            conditions = self._encodings.conditions(request)
            seconds = self._time_call(request, conditions)
            if conditions.unguided is None:
                return seconds
            guided = request.guided_steps(request.steps)
            share = sum(guided) / len(guided)
            return share * seconds + (1 - share) * self._time_call(request, conditions.unguided)

    def _time_call(self, request: Request, conditions: Conditions) -> float:
        denoiser = self._prepared(request, conditions).denoiser
        with self._access.working("warming up", self.model.unet):
            inputs = self._example(request, conditions)
            timing.synchronize(self.device)
            started = time.perf_counter()
            denoiser(inputs)
            timing.synchronize(self.device)
            return time.perf_counter() - started

    # --- pictures --------------------------------------------------------------------------------------------------

    def draw(self, request: Request, name: str = "") -> Drawing:
        """All pictures of a request, `batch_size` in a call of the UNet; `name` is for people who watch."""
        with self._access.lock:
            parts = [self.draw_batch(request, numbers, name) for numbers in request.batches]
        images = {number: image for part in parts for number, image in part.images.items()}
        return Drawing(
            images,
            sum(part.steps for part in parts),
            sum(part.steps_s for part in parts),
            sum(part.decode_s for part in parts),
        )

    def draw_batch(self, request: Request, numbers: Sequence[int], name: str = "") -> Drawing:
        """The pictures of one of `Request.batches`, in one call of the UNet a step."""
        with self._access.lock:
            conditions = self._encodings.conditions(request, numbers)
            return self._draw(request, conditions, [request.seeds[number] for number in numbers], numbers, name)

    def draw_together(self, requests: Sequence[Request]) -> list[Drawing]:
        """The picture of each of several requests that are `alike`, in one call of the UNet a step where they fit."""
        with self._access.lock:
            conditions = together.joined([self._encodings.conditions(each) for each in requests])
            if conditions is None:
                return [self.draw(each) for each in requests]
            seeds = [each.seeds[0] for each in requests]
            drawn = self._draw(requests[0], conditions, seeds, range(len(seeds)), "")
            return [replace(drawn, images={0: image}) for image in drawn.images.values()]

    def _draw(
        self, request: Request, conditions: Conditions, seeds: Sequence[int], numbers: Sequence[int], name: str
    ) -> Drawing:
        from ipa_cli.pipeline import denoise, sampler

        ready = self._prepared(request, conditions)
        denoiser, by = ready.denoiser, self._decode(request, ready)
        half = conditions.unguided
        unguided = None if half is None else self._prepared(request, half).denoiser
        clock = timing.StepClock(self.device)
        start = self._encodings.start(request, seeds)
        schedule = self._schedule(request.sampling, request.steps)
        steps = sampler.of(schedule, request.sampling, request.steps, start.generators)
        calls = len(steps.timesteps)
        with self.reporter.steps(name, calls) as advance, self._access.working("drawing", self.model.unet):
            self._access.publish(step=0, steps=calls)

            def stepped() -> None:
                self._access.publish(step=self._access.state.step + 1)
                advance()

            latents = denoise.denoise(request, conditions, denoiser, steps, start, clock, stepped, unguided)
            timing.synchronize(self.device)
        began = time.perf_counter()
        with self._access.working("decoding", self.model.vae):
            names = [one.file.name for one in request.loras]
            images = denoise.decode(self.model.vae, latents, self.reporter.warn, names, by)
        if request.init is not None:
            images = [request.init.picture.over(image) for image in images]
        decode_s = time.perf_counter() - began
        found = dict(zip(numbers, images, strict=True))
        self._access.publish(drawn=self._access.state.drawn + len(found))
        return Drawing(found, calls, clock.seconds, decode_s)

    def _schedule(self, sampling: Sampling, steps: int) -> Any:
        """See `schedules.find`; tables are kept, a diffusers scheduler serves once."""
        if (sampling, steps) not in self._schedules:
            found = schedules.find(self.settings, self.plan, sampling, steps, self.reporter)
            if not isinstance(found, Schedule):
                return found
            while len(self._schedules) >= SHAPES:
                self._schedules.pop(next(iter(self._schedules)))
            self._schedules[sampling, steps] = found
        return self._schedules[sampling, steps]
