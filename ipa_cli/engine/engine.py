"""A loaded model that draws: opened once, then asked for pictures of any size, prompt, reference, scale and sampler."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ipa_cli.config import Settings
from ipa_cli.config.step_cache import DEEP
from ipa_cli.engine import decoders, drawing, schedules
from ipa_cli.engine.access import Access, State
from ipa_cli.engine.backend_choice import check_capabilities, warn_of_tuning
from ipa_cli.engine.decoders import Decoder
from ipa_cli.engine.denoisers import Denoisers
from ipa_cli.engine.drawing import Begun, Drawing
from ipa_cli.engine.encodings import Encodings, distinct
from ipa_cli.engine.pair.pair import Pair, starting
from ipa_cli.engine.ready import Ready
from ipa_cli.engine.store import graph_store
from ipa_cli.hardware import cores, devices, preload, timing
from ipa_cli.models.plan import Plan
from ipa_cli.pipeline import hires, residuals, step_cache
from ipa_cli.pipeline.task import Request
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ipa_cli.models.loader import Model
    from ipa_cli.pipeline.denoise import Conditions
    from ipa_cli.pipeline.image_encoding import Embeds
    from ipa_cli.pipeline.start import Start
    from ipa_cli.unet.inputs import UNetInputs


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
        self._denoisers: Denoisers
        self._pair: Pair | None = None  # with a second GPU
        decodes_plainly = self.offload != "none" or settings.vae_tiling
        self._decoders = decoders.Kept(settings, self.device, decodes_plainly, reporter)
        self._schedules = schedules.Kept(settings, plan, reporter)

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
        with reporter.stage(f"loading {plan.name}") as doing, starting(settings) as pair:
            doing("torch")
            engine = cls(settings, plan, reporter, opening)
            check_capabilities(settings, engine.device, engine.offload)
            if engine.offload != settings.offload and settings.given("offload"):
                reporter.note(
                    f"--offload {settings.offload} has no effect on {engine.device}, whose memory is the main one"
                )
            warn_of_tuning(settings, engine.device, reporter)
            devices.warn_of_emulation(engine.device, engine.dtype, reporter)
            if pair is not None:
                pair.begin(settings, plan, engine.device, engine.dtype, reporter)
                engine._pair, engine._access.watch = pair, pair.process.watched
            doing("weights")
            engine._load(shows_bars)
            if pair is not None:
                pair.share(engine.model.unet)
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
                devices.offload_sequentially([model.unet, model.vae, *model.controls, *encoders], self.device)
            if self.offload != "none":
                model.adapters.to(self.device)
            self._take(model)

    def _take(self, model: Model) -> None:
        self._encodings = Encodings(model, self._access, self.reporter)
        networks = replace(model, text_encoders=(), image_encoders=())
        self._denoisers = Denoisers(
            self.settings, self.plan, networks, self._access, self.reporter, self._opening, self._pair
        )
        self._access.publish(encoders=True)

    def close(self) -> None:
        """Give back the memory of the model, its graphs and all that is encoded; nothing can be drawn any more."""
        import gc

        with self._access.lock:
            if self._pair is not None:
                self._pair.close()
            self._denoisers.clear()
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

        With guidance in part of the steps, and with a hires pass, these are several, and all are made ready. The
        backend is the one asked for, here or when the engine was opened, or the best that is ready, with a word on why.
        Raises what `graphs.prepare` does.
        """
        with self._access.lock:
            return self._prepared(request, [self._encodings.conditions(one) for one in request.passes], backend)

    def _prepared(self, request: Request, each: Sequence[Conditions], backend: str | None) -> Ready:
        """For `each` the conditions of a pass."""
        from ipa_cli.pipeline.decoding import check_memory

        sizes = hires.sizes(request.hires, request.width, request.height)
        check_memory(self.model.vae, *sizes[-1], self.device)
        others = [None] if len(sizes) == 1 else sizes[::-1]
        passes = zip(request.passes, each, others, strict=True)
        ready = [self._prepared_pass(*given, backend) for given in passes]
        return ready[0] if len(ready) == 1 else ready[0].before(ready[1])

    def _prepared_pass(
        self, request: Request, conditions: Conditions, other_size: tuple[int, int] | None, backend: str | None
    ) -> Ready:
        ready = self._denoisers.of_unet(request, conditions, backend, other_size)
        controls = self._denoisers.of_controls(request, conditions, backend, other_size)
        if conditions.unguided is None:
            return ready.with_controls(controls)
        unguided = self._denoisers.of_unet(request, conditions.unguided, backend, other_size)
        controls += self._denoisers.of_controls(request, conditions.unguided, backend, other_size)
        return ready.beside(unguided).with_controls(controls)

    def compile(self, request: Request, options: Mapping[str, Any]) -> list[Ready]:
        """The graphs for a request with exactly these options of its backend: from the cache, or compiled for it.

        One for the UNet and one for each ControlNet; or these for each pass, and with guidance in part of the steps for
        each kind of step.
        """
        with self._access.working("preparing"), self._opening():
            made: list[Ready] = []
            for one in request.passes:
                made += self._denoisers.compile(one, self._encodings.conditions(one), options, made)
            return list({id(ready): ready for ready in made}.values())

    def compile_decoder(self, request: Request) -> Decoder | None:
        """The decoder's graph for a request's size, from the cache or compiled; None where the backend has none."""
        with self._access.working("preparing"), self._opening():
            wanted = self._decoders.wanted(self._denoisers.backend, request.width, request.height)
            store = graph_store(self.settings)
            if wanted is None:
                return None
            return decoders.prepare(self.model.vae, wanted, self.plan.name, store, self.reporter)

    def example_inputs(self, request: Request) -> UNetInputs:
        """The inputs of a UNet call as every step of `request` makes it, with guidance where some have none."""
        with self._access.lock:
            return self._denoisers.example(request, self._encodings.conditions(request))

    def warm_up(self, request: Request) -> float:
        """Call the UNet `warmup` times untimed, so that nothing done once counts as speed; seconds of the first."""
        if not self.settings.warmup:
            return 0.0
        with self.reporter.stage("warming up"):
            first, *_ = [self.time_step(request) for _ in range(self.settings.warmup)]
        return first

    def time_step(self, request: Request) -> float:
        """Call the UNet and its ControlNets once, as a step does; seconds until the device is done.

        With several passes, and guidance in part of the steps, it is called once for each kind: seconds of a step on
        average.
        """
        with self._access.lock:
            total = sum(one.steps_taken * self._time_pass(one) for one in request.passes)
            return total / request.steps_taken

    def _time_pass(self, request: Request) -> float:
        conditions = self._encodings.conditions(request)
        seconds = self._time_call(request, conditions)
        if conditions.unguided is None:
            return seconds
        guided = request.guided_steps(request.steps)
        share = sum(guided) / len(guided)
        return share * seconds + (1 - share) * self._time_call(request, conditions.unguided)

    def _time_call(self, request: Request, conditions: Conditions) -> float:
        networks = self._denoisers.networks(request, conditions)
        with self._access.working("warming up", self.model.unet, *self._encodings.controls(request)):
            inputs = self._denoisers.example(request, conditions)
            add = residuals.Residuals(conditions.controls, networks.controls, request.steps)
            cache, given = request.step_cache, partial(add, inputs, None)
            several = range(cache.every if cache.uses(DEEP) else 1)  # of a forecast nothing but its call takes time
            calls = step_cache.calls(cache, [None] * len(several))
            timing.synchronize(self.device)
            started = time.perf_counter()
            for step in several:
                calls(networks.unet, given, step)
            timing.synchronize(self.device)
            return (time.perf_counter() - started) / cache.every

    # --- pictures --------------------------------------------------------------------------------------------------

    def draw(self, request: Request, name: str = "") -> Drawing:
        """All pictures of a request, `batch_size` in a call of the UNet; `name` is for people who watch."""
        with self._access.lock:
            return drawing.joined([self.draw_batch(request, numbers, name) for numbers in request.batches])

    def draw_batch(self, request: Request, numbers: Sequence[int], name: str = "") -> Drawing:
        """The pictures of one of `Request.batches`, in one call of the UNet a step."""
        with self._access.lock:
            conditions = [self._encodings.conditions(one, numbers) for one in request.passes]
            begun = self._begin(request, conditions, [request.seeds[number] for number in numbers], numbers, name)
            with self._access.working("decoding"):
                return begun.drawing()

    def draw_together(self, requests: Sequence[Request]) -> list[Drawing]:
        """The picture of each of several requests that are `alike`, in one call of the UNet a step where they fit."""
        with self._access.lock:
            begun = self.begin(requests)
            with self._access.working("decoding"):
                return [one.drawing() for one in begun]

    def begin(self, requests: Sequence[Request]) -> list[Begun]:
        """Have the picture of each of several requests drawn that are `alike`, in one call of the UNet a step.

        Where they do not fit they are drawn one after the other. A GPU is at work when this returns, unless the model
        is offloaded, and the next may be begun: what they need is encoded meanwhile. Raises what `prepare` does.
        """
        with self._access.lock:
            each = []
            for passes in zip(*(one.passes for one in requests), strict=True):
                found = self._encodings.of_several(passes, overlap=self._pair is None)
                if found is None:
                    return [begun for one in requests for begun in self.begin([one])]
                each.append(found)
            begun = self._begin(requests[0], each, [one.seeds[0] for one in requests], range(len(requests)), "")
            return [replace(begun, images={0: image}) for image in begun.images.values()]

    def _begin(
        self, request: Request, each: Sequence[Conditions], seeds: Sequence[int], numbers: Sequence[int], name: str
    ) -> Begun:
        """Pictures with these seeds, and `each` the conditions of a pass."""
        from ipa_cli.pipeline.decoding import Decoding

        loras, latents, by = [one.file.name for one in request.loras], None, None
        ready = self._prepared(request, each, None)
        steps: list[tuple[int, timing.StepClock]] = []
        decoding: list[timing.StepClock] = []

        def clock() -> timing.StepClock:
            decoding.append(timing.StepClock(self.device, ahead=None))
            decoding[-1].mark()
            return decoding[-1]

        for one, steered in zip(request.passes, each, strict=True):
            if latents is None:
                start = self._encodings.start(one, seeds)
            else:
                between = clock()
                start = self._encodings.enlarged(request, latents, seeds, loras, by)
                between.mark()
            latents, calls, own = self._denoise(one, steered, start, name)
            by = self._decoders.find(self.model.vae, self._denoisers.of_unet(one, steered), one.width, one.height)
            steps.append((calls, own))
        assert latents is not None

        def finished(decoding: Decoding) -> Image:
            with nullcontext() if decoding.wait() else self._access.working("decoding", self.model.vae):
                image = decoding.picture(self.reporter.warn, loras)
            return image if request.init is None else request.init.picture.over(image)

        found: dict[int, Callable[[], Image]] = {}
        behind = clock()
        with self._access.working("decoding", self.model.vae):
            for number, own_latents in zip(numbers, latents.split(1), strict=True):
                found[number] = partial(finished, Decoding(self.model.vae, own_latents, by))
                if self.offload != "none":  # before its weights leave the device
                    found[number] = partial(lambda image: image, found[number]())
            behind.mark()
        self._access.publish(drawn=self._access.state.drawn + len(found))
        return Begun(found, ready, tuple(steps), tuple(decoding))

    def _denoise(
        self, request: Request, conditions: Conditions, start: Start, name: str
    ) -> tuple[Tensor, int, timing.StepClock]:
        """The latents of pictures after the steps of one pass, the calls of the UNet, and their clock."""
        from ipa_cli.pipeline import denoise, sampler

        networks, half = self._denoisers.networks(request, conditions), conditions.unguided
        unguided = None if half is None else self._denoisers.networks(request, half)
        modules = (self.model.unet, *self._encodings.controls(request))
        clock = timing.StepClock(self.device)
        schedule = self._schedules.find(request.sampling, request.steps)
        steps = sampler.of(schedule, request.sampling, request.steps, start.generators)
        calls = len(steps.timesteps)
        with self.reporter.steps(name, calls) as advance, self._access.working("drawing", *modules):
            self._access.publish(step=0, steps=calls)

            def stepped() -> None:
                self._access.publish(step=self._access.state.step + 1)
                advance()

            latents = denoise.denoise(request, conditions, networks, steps, start, clock, stepped, unguided)
            if self._pair is not None:  # it watches over the other process as long as this waits
                timing.synchronize(self.device)
        return latents, calls, clock
