"""A loaded model on a device: conditions, backend and warm-up, and the drawing of one picture."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ipa_cli import backends, config
from ipa_cli.backends import requirements
from ipa_cli.cache import Store, StoreError, temporary
from ipa_cli.config import Settings
from ipa_cli.engine.graphs import Ready
from ipa_cli.errors import UsageError, suggest
from ipa_cli.hardware import cores, packages
from ipa_cli.models import schedulers
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from ipa_cli.backends.base import Denoiser
    from ipa_cli.hardware.timing import StepClock
    from ipa_cli.models.loader import Model
    from ipa_cli.models.plan import Plan
    from ipa_cli.pipeline.denoise import Conditions, Request
    from ipa_cli.pipeline.task import ImagePrompt, Task
    from ipa_cli.unet.inputs import UNetInputs

BACKEND_ALIASES = {"none": "eager"}
AUTO = "auto"


@dataclass(frozen=True)
class Session:
    """A loaded model; `offload` is what was asked for, none on a CPU."""

    settings: Settings
    plan: Plan
    model: Model
    device: torch.device
    dtype: torch.dtype
    offload: str


def check_backend(name: str, precision: str = "half") -> str:
    """The backend asked for, or auto. Raises UsageError for an unknown one, IpaError for one that cannot work here."""
    name = _meant(name, precision)
    known = (AUTO, *backends.MODULES)
    if name not in known:
        raise UsageError(f"unknown backend '{name}'{suggest(name, known)}", f"choose one of {', '.join(known)}")
    problem = None if name == AUTO else requirements.problem(name, packages.installed())
    if problem is not None:
        raise problem
    return name


def _meant(name: str, precision: str) -> str:
    """The backend that a name stands for; one alone has fp8, so that auto is no longer free to choose."""
    return "inductor" if (name, precision) == (AUTO, "fp8") else BACKEND_ALIASES.get(name, name)


def open_session(settings: Settings, plan: Plan, reporter: Reporter, shows_bars: bool, alone: bool = False) -> Session:
    """Load the model onto the device, or into main memory when it is offloaded.

    On a CPU it then takes the threads that fit beside other programs; all of them if `alone` counts, as in a bench.
    Raises UsageError, before the long work, for a backend that cannot do on this device what the settings ask of it.
    """
    began = cores.snapshot()
    with reporter.stage(f"loading {plan.name}") as doing:
        doing("torch")
        from ipa_cli.engine import graphs
        from ipa_cli.hardware import devices
        from ipa_cli.models import loader

        device = devices.pick_device(settings.device)
        dtype = devices.pick_dtype(settings.dtype, device)
        offload = "none" if device.type == "cpu" else settings.offload
        backend = _meant(settings.backend, settings.precision)
        _check_offload(backend, offload)
        if backend != AUTO:
            graphs.check_options(backend, settings, device)
        with devices.memory_in_words(device, offload, settings.vae_tiling):
            import torch

            doing("weights")
            home = device if offload == "none" else torch.device("cpu")
            model = loader.load(plan, device, home, dtype, reporter, shows_bars)
            if settings.vae_tiling:
                model.vae.enable_tiling()
            if settings.vae_slicing:
                model.vae.enable_slicing()
            if offload == "sequential":
                encoders = dict.fromkeys(filter(None, model.image_encoders))
                devices.offload_sequentially([model.unet, model.vae, *model.text_encoders, *encoders], device)
            if offload != "none":
                model.adapters.to(device)
    if device.type == "cpu":
        cores.fit(0.0 if alone else cores.others(began), reporter)
    return Session(settings, plan, model, device, dtype, offload)


def _check_offload(backend: str, offload: str) -> None:
    if offload != "none" and backend not in (AUTO, "eager"):
        raise UsageError(f"the backend {backend} needs its weights to stay on the GPU", "leave out --offload")


def make_ready(session: Session, backend: str, request: Request, conditions: Conditions, reporter: Reporter) -> Ready:
    """Hand the UNet to a backend: the one asked for, or the best that is ready here, with a word on why."""
    from ipa_cli.engine import graphs

    settings, model = session.settings, session.model
    if session.offload != "none":
        _check_offload(backend, session.offload)
        # A CUDA graph remembers where the weights lie, and offloading moves them.
        reporter.note("weights are offloaded: the UNet runs uncompiled and without a CUDA graph")
        options = {**backends.get("eager").options(None), "cuda_graph": False}
        return Ready(
            backends.get("eager").load(model.unet, None, options), "eager", "uncompiled", "weights are offloaded"
        )

    example = example_inputs(session, request, conditions)
    cache = graph_store(settings)
    if backend == AUTO:
        return graphs.choose(model.unet, example, session.plan.name, settings, cache, reporter)
    wanted = graphs.ask(backends.get(backend), backend, session.plan.name, example, settings)
    try:
        return graphs.prepare(model.unet, wanted, cache, settings.compile, reporter)
    except StoreError as error:
        if not settings.compile:
            raise
        reporter.warn(f"{error.message} ({error.hint}): the graph serves this run alone")
        return graphs.prepare_unkept(model.unet, wanted, reporter)


def graph_store(settings: Settings) -> Store:
    """The store of compiled graphs that the settings name."""
    return Store(config.cache_dir(settings), config.cache_limit(settings))


def temporary_files(settings: Settings) -> AbstractContextManager[None]:
    """For as long as graphs are compiled or called: see `temporary.files`."""
    return temporary.files(graph_store(settings))


def example_inputs(session: Session, request: Request, conditions: Conditions) -> UNetInputs:
    """The inputs of a UNet call as every step of `request` makes it."""
    import torch

    from ipa_cli.pipeline.denoise import unet_inputs

    timestep = torch.tensor(500.0, device=session.device)
    return unet_inputs(request, conditions, _noise(session, request), timestep)


def condition(session: Session, task: Task, reporter: Reporter) -> Conditions:
    """Encode prompt and references, and make every layer's keys and values, once."""
    return join(session, encode_text(session, task, reporter), encode_images(session, task), task)


def encode_text(session: Session, task: Task, reporter: Reporter) -> tuple[Tensor, Tensor | None]:
    """Hidden states and pooled embeddings of the prompt, as `conditioning.encode_text` gives them."""
    from ipa_cli.hardware import devices
    from ipa_cli.pipeline import conditioning

    model, device, offload = session.model, session.device, session.offload
    guided = task.requests[0].guided
    with (
        devices.memory_in_words(device, offload, session.settings.vae_tiling),
        devices.brought_to(device, offload, *model.text_encoders),
    ):
        return conditioning.encode_text(model, task.prompt, task.negative_prompt, guided, device, reporter)


def encode_images(session: Session, task: Task) -> list[Tensor]:
    """Embeddings of the references per adapter, as `conditioning.encode_images` gives them; none without adapter."""
    from ipa_cli.hardware import devices
    from ipa_cli.pipeline import conditioning

    model, device, offload = session.model, session.device, session.offload
    with (
        devices.memory_in_words(device, offload, session.settings.vae_tiling),
        devices.brought_to(device, offload, *dict.fromkeys(filter(None, model.image_encoders))),
    ):
        return conditioning.encode_images(model, task.image_prompts, task.requests[0].guided, device)


def join(session: Session, text: tuple[Tensor, Tensor | None], images: list[Tensor], task: Task) -> Conditions:
    """Every layer's keys and values from an encoded prompt and encoded references, and the scales of `task`."""
    from ipa_cli.hardware import devices
    from ipa_cli.pipeline import conditioning
    from ipa_cli.pipeline.denoise import Conditions
    from ipa_cli.unet import attention

    model, device, offload = session.model, session.device, session.offload
    hidden, pooled = text
    names, request = attention.layers(model.unet), task.requests[0]
    scales = conditioning.scales(task.image_prompts, names)
    levels = len(model.unet.config.down_block_types)
    masks = conditioning.masks(task.image_prompts, names, levels, request.width, request.height, device, hidden.dtype)
    with (
        devices.memory_in_words(device, offload, session.settings.vae_tiling),
        devices.brought_to(device, offload, model.unet),
    ):
        weights, parts = (
            [image_prompt.weights for image_prompt in task.image_prompts],
            [image_prompt.parts for image_prompt in task.image_prompts],
        )
        context = attention.project(model.unet, model.adapters, hidden, images, scales, weights, parts)
    spans = tuple(
        (image_prompt.start, image_prompt.end) for image_prompt in task.image_prompts for _ in range(image_prompt.parts)
    )
    return Conditions(context._replace(mask=masks), pooled, spans)


def without_encoders(session: Session, joined: bool) -> Session:
    """The session once everything is encoded: the encoders no longer take memory.

    Nor do the adapters' weights once everything is `joined` too.
    """
    import torch

    model, nothing = session.model, torch.device("meta")
    if session.offload == "none":
        unused = [*model.text_encoders, *dict.fromkeys(filter(None, model.image_encoders))]
        for module in [*unused, model.adapters] if joined else unused:
            module.to(nothing)  # whoever else still holds it
        if session.device.type == "cuda":
            torch.cuda.empty_cache()  # CUDA graphs have memory of their own
    return replace(session, model=replace(model, text_encoders=(), image_encoders=()))


def at_scale(session: Session, conditions: Conditions, image_prompts: Sequence[ImagePrompt]) -> Conditions:
    """Conditions at the scales of `uses`, which differ from those they were made for in nothing else."""
    from ipa_cli.pipeline import conditioning
    from ipa_cli.unet import attention

    context = conditions.context
    scales = conditioning.scales(image_prompts, attention.layers(session.model.unet))
    return replace(conditions, context=context._replace(scale=scales.to(context.scale)))


def warm_up(
    session: Session, denoiser: Denoiser, request: Request, conditions: Conditions, reporter: Reporter
) -> float:
    """Call the UNet `warmup` times untimed, so that nothing done once counts as speed; seconds of the first call."""
    if not session.settings.warmup:
        return 0.0
    with reporter.stage("warming up"):
        first, *_ = [time_step(session, denoiser, request, conditions) for _ in range(session.settings.warmup)]
    return first


def time_step(session: Session, denoiser: Denoiser, request: Request, conditions: Conditions) -> float:
    """Call the UNet once, as a step does; seconds until the device is done."""
    from ipa_cli.hardware import devices, timing

    device = session.device
    with (
        devices.memory_in_words(device, session.offload, session.settings.vae_tiling),
        devices.brought_to(device, session.offload, session.model.unet),
    ):
        inputs = example_inputs(session, request, conditions)
        timing.synchronize(device)
        started = time.perf_counter()
        denoiser(inputs)
        timing.synchronize(device)
        return time.perf_counter() - started


def draw(
    session: Session, denoiser: Denoiser, request: Request, conditions: Conditions, name: str, reporter: Reporter
) -> tuple[Image, StepClock]:
    """One picture and the clock of its steps."""
    drawn = draw_several(session, denoiser, [request], conditions, name, reporter)
    return drawn.images[0], drawn.clock


@dataclass(frozen=True)
class Several:
    """Pictures drawn at once, the clock of their steps, and seconds from the last step to the decoded pictures."""

    images: list[Image]
    clock: StepClock
    decode_s: float


def draw_several(
    session: Session,
    denoiser: Denoiser,
    requests: Sequence[Request],
    conditions: Conditions,
    name: str,
    reporter: Reporter,
) -> Several:
    """Pictures that differ in their seeds alone; `conditions` are those of `denoise.for_several` of as many."""
    import torch

    from ipa_cli.hardware import devices, timing
    from ipa_cli.pipeline import denoise

    settings, device, model = session.settings, session.device, session.model
    clock = timing.StepClock(device)
    with devices.memory_in_words(device, session.offload, settings.vae_tiling):
        scheduler = schedulers.create(settings.scheduler, model.scheduler)
        calls = schedulers.calls(scheduler, requests[0].steps)
        noise = torch.cat([_noise(session, request) for request in requests])
        with reporter.steps(name, calls) as advance, devices.brought_to(device, session.offload, model.unet):
            latents = denoise.denoise(requests, conditions, denoiser, scheduler, noise, clock, advance)
            timing.synchronize(device)
        began = time.perf_counter()
        with devices.brought_to(device, session.offload, model.vae):
            images = denoise.decode(model.vae, latents, reporter.warn)
        return Several(images, clock, time.perf_counter() - began)


def _noise(session: Session, request: Request) -> Any:
    from ipa_cli.pipeline.denoise import initial_noise

    return initial_noise(request, session.model.unet.config.in_channels, session.device, session.dtype)
