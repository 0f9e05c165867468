"""Where model, backend, pipeline and pictures meet; a command asks here and gets plain data back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import backends, config, models, pictures, references, requirements, schedulers, units
from .config import Settings, suggest
from .errors import UsageError
from .graphs import Ready
from .report import Reporter
from .store import Store

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from .attention import UNetInputs
    from .backends import Denoiser
    from .loading import Model
    from .measure import StepClock
    from .models import Plan
    from .pipeline import Conditions, Request

BACKEND_ALIASES = {"none": "eager"}
AUTO = "auto"
SEEDS = 2**32


@dataclass(frozen=True)
class Task:
    """What to draw, with every default filled in."""

    prompt: str
    negative_prompt: str
    scale: float
    references: tuple[references.Reference, ...]
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Session:
    """A loaded model; `offload` is what was asked for, none on a CPU."""

    settings: Settings
    plan: Plan
    model: Model
    device: torch.device
    dtype: torch.dtype
    offload: str


@dataclass(frozen=True)
class Drawn:
    """A picture on disk."""

    path: Path
    seed: int
    scale: float
    width: int
    height: int
    sha256: str


@dataclass(frozen=True)
class Generated:
    """What `ipa generate` did: pictures, times in seconds, memory in GiB."""

    images: tuple[Drawn, ...]
    timings: Mapping[str, float]
    peak_gib: float
    backend: str
    graph: Mapping[str, Any]
    device: str
    dtype: str
    model: str
    adapter: str | None
    steps: int
    references: tuple[str, ...] = field(default=())


def generate(settings: Settings, reporter: Reporter, force: bool, shows_bars: bool) -> Generated:
    """Draw and write the pictures `settings` ask for; all that can be wrong is looked for before the long work."""
    started = time.perf_counter()
    schedulers.check(settings.scheduler)
    backend = check_backend(settings.backend)
    pictures.plan_paths(settings.output, [{"seed": 0, "scale": 0, "index": 0, "prompt": ""}], force)
    loaded = load_references(settings, reporter)
    plan = models.plan(settings)
    task = make_task(settings, plan, loaded)
    paths = pictures.plan_paths(settings.output, [_fields(task, n) for n in range(len(task.requests))], force)
    for folder in {path.parent: path for path in paths}.values():
        pictures.check_writable(folder)
    _say_what_it_is(plan, reporter)

    session = open_session(settings, plan, reporter, shows_bars)
    loaded_at = time.perf_counter()
    conditions = condition(session, task, reporter)
    ready = make_ready(session, backend, task.requests[0], conditions, reporter)
    ready_at = time.perf_counter()
    first_step = warm_up(session, ready.denoiser, task.requests[0], conditions, reporter)
    warmed_at = time.perf_counter()

    images, speeds = [], []
    for number, (request, path) in enumerate(zip(task.requests, paths, strict=True)):
        image, clock = draw(session, ready.denoiser, request, conditions, path.name, reporter)
        saved = pictures.write_png(path, image, record(session, ready, task, number), force)
        images.append(Drawn(saved.path, request.seed, task.scale, image.width, image.height, saved.sha256))
        speeds.append(clock)
    ended = time.perf_counter()

    from .measure import peak_gib

    step_seconds = sum(clock.seconds for clock in speeds)
    return Generated(
        images=tuple(images),
        timings={
            "load_s": loaded_at - started,
            "prepare_s": ready_at - loaded_at,
            "graph_open_s": ready.open_s,
            "graph_compile_s": ready.compile_s,
            "first_step_s": first_step,
            "warmup_s": warmed_at - ready_at,
            "inference_s": ended - warmed_at,
            "e2e_s": ended - started,
            "it_per_s": sum(request.steps for request in task.requests) / step_seconds if step_seconds else 0.0,
        },
        peak_gib=peak_gib(session.device),
        backend=ready.backend,
        graph=graph_facts(ready),
        device=str(session.device),
        dtype=str(session.dtype).removeprefix("torch."),
        model=plan.name,
        adapter=adapter_name(plan),
        steps=task.requests[0].steps,
        references=tuple(reference.source for reference in task.references),
    )


def load_references(settings: Settings, reporter: Reporter) -> tuple[references.Reference, ...]:
    """The reference pictures, each checked; says what was done to them."""
    loaded = tuple(references.load(member) for text in settings.image for member in references.expand(text))
    for reference in loaded:
        for remark in reference.notes:
            reporter.note(f"{reference.source}: {remark}")
    return loaded


def check_backend(name: str) -> str:
    """The backend asked for, or auto. Raises UsageError for an unknown one, IpaError for one that cannot work here."""
    name = BACKEND_ALIASES.get(name, name)
    known = (AUTO, *backends.MODULES)
    if name not in known:
        raise UsageError(f"unknown backend '{name}'{suggest(name, known)}", f"choose one of {', '.join(known)}")
    problem = None if name == AUTO else requirements.problem(name, requirements.installed())
    if problem is not None:
        raise problem
    return name


def make_task(settings: Settings, plan: Plan, loaded: tuple[references.Reference, ...]) -> Task:
    """Fill in what the user left open from the model's defaults."""
    from .pipeline import Request

    def chosen(name: str) -> Any:
        value = getattr(settings, name)
        return plan.defaults.get(name) if value is None else value

    prompt = chosen("prompt")
    if prompt is None:
        raise UsageError(f"what should {plan.name} draw?", 'say it with --prompt "a red fox in the snow"')
    if plan.adapter is not None and not loaded:
        loaded = (references.load(plan.defaults["reference"]),)
    first = secrets.randbelow(SEEDS) if settings.seed is None else settings.seed
    requests = tuple(
        Request(chosen("width"), chosen("height"), chosen("steps"), chosen("guidance_scale"), first + n)
        for n in range(settings.num_images)
    )
    scale = chosen("scale") if plan.adapter is not None else 0.0
    return Task(prompt, settings.negative_prompt, scale, loaded, requests)


def open_session(settings: Settings, plan: Plan, reporter: Reporter, shows_bars: bool) -> Session:
    """Load the model onto the device, or into main memory when it is offloaded."""
    with reporter.stage(f"loading {plan.name}") as doing:
        doing("torch")
        from . import devices, loading

        device = devices.pick_device(settings.device)
        dtype = devices.pick_dtype(settings.dtype, device)
        offload = "none" if device.type == "cpu" else settings.offload
        with devices.memory_in_words(device, offload, settings.vae_tiling):
            import torch

            doing("weights")
            home = device if offload == "none" else torch.device("cpu")
            model = loading.load(plan, device, home, dtype, reporter, shows_bars)
            if settings.vae_tiling:
                model.vae.enable_tiling()
            if settings.vae_slicing:
                model.vae.enable_slicing()
            if offload == "sequential":
                parts = [model.unet, model.vae, *model.text_encoders, model.image_encoder]
                devices.offload_sequentially([part for part in parts if part is not None], device)
            if offload != "none":
                model.adapters.to(device)
    return Session(settings, plan, model, device, dtype, offload)


def make_ready(session: Session, backend: str, request: Request, conditions: Conditions, reporter: Reporter) -> Ready:
    """Hand the UNet to a backend: the one asked for, or the best that is ready here, with a word on why."""
    from . import graphs

    settings, model = session.settings, session.model
    if session.offload != "none":
        if backend not in (AUTO, "eager"):
            raise UsageError(
                f"--backend {backend} needs its weights to stay on the GPU",
                "leave out --offload, or use --backend eager",
            )
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
    options = backends.get(backend).options(settings.compile_options)
    wanted = graphs.Wanted(backend, session.plan.name, example, options, settings.compile_options is None)
    return graphs.prepare(model.unet, wanted, cache, settings.compile, reporter)


def graph_store(settings: Settings) -> Store:
    """The store of compiled graphs that the settings name."""
    try:
        limit = units.parse_size(settings.cache_max_size)
    except ValueError as error:
        raise UsageError(f"cache_max_size: {error}", "`ipa config show` tells where it is set") from None
    return Store(config.cache_dir(settings), limit)


def graph_facts(ready: Ready) -> dict[str, Any]:
    """Which graph drew, as data."""
    return {"origin": ready.origin, "id": ready.entry.id if ready.entry else None, "why": ready.why}


def example_inputs(session: Session, request: Request, conditions: Conditions) -> UNetInputs:
    """The inputs of a UNet call as every step of `request` makes it."""
    import torch

    from .pipeline import unet_inputs

    timestep = torch.tensor(500.0, device=session.device)
    return unet_inputs(request, conditions, _noise(session, request), timestep)


def condition(session: Session, task: Task, reporter: Reporter) -> Conditions:
    """Encode prompt and references, and make every layer's keys and values, once."""
    from . import attention, conditioning, devices
    from .pipeline import Conditions

    model, device, offload = session.model, session.device, session.offload
    guided = task.requests[0].guided
    with devices.memory_in_words(device, offload, session.settings.vae_tiling):
        with devices.brought_to(device, offload, *model.text_encoders):
            hidden, pooled = conditioning.encode_text(
                model, task.prompt, task.negative_prompt, guided, device, reporter
            )
        images = []
        if session.plan.adapter is not None:
            assert model.image_encoder is not None
            with devices.brought_to(device, offload, model.image_encoder):
                images = conditioning.encode_images(model, [[r.image for r in task.references]], guided, device)
        scale = conditioning.scales(task.scale, len(images), len(attention.layers(model.unet)))
        with devices.brought_to(device, offload, model.unet):
            context = attention.project(model.unet, model.adapters, hidden, images, scale)
    return Conditions(context, pooled)


def warm_up(
    session: Session, denoiser: Denoiser, request: Request, conditions: Conditions, reporter: Reporter
) -> float:
    """Call the UNet `warmup` times untimed, so that nothing done once counts as speed; seconds of the first call."""
    from . import devices, measure

    settings, device = session.settings, session.device
    if not settings.warmup:
        return 0.0
    with (
        reporter.stage("warming up"),
        devices.memory_in_words(device, session.offload, settings.vae_tiling),
        devices.brought_to(device, session.offload, session.model.unet),
    ):
        inputs = example_inputs(session, request, conditions)
        measure.synchronize(device)
        started = time.perf_counter()
        denoiser(inputs)
        measure.synchronize(device)
        first = time.perf_counter() - started
        for _ in range(settings.warmup - 1):
            denoiser(inputs)
        measure.synchronize(device)
    return first


def draw(
    session: Session, denoiser: Denoiser, request: Request, conditions: Conditions, name: str, reporter: Reporter
) -> tuple[Image, StepClock]:
    """One picture and the clock of its steps."""
    from . import devices, measure, pipeline

    settings, device, model = session.settings, session.device, session.model
    clock = measure.StepClock(device)
    with devices.memory_in_words(device, session.offload, settings.vae_tiling):
        scheduler = schedulers.create(settings.scheduler, model.scheduler)
        with reporter.steps(name, request.steps) as advance, devices.brought_to(device, session.offload, model.unet):
            latents = pipeline.denoise(
                request, conditions, denoiser, scheduler, _noise(session, request), clock, advance
            )
        with devices.brought_to(device, session.offload, model.vae):
            return pipeline.decode(model.vae, latents), clock


def record(session: Session, ready: Ready, task: Task, number: int) -> dict[str, Any]:
    """Everything needed to draw picture `number` again, as its file carries it."""
    request = task.requests[number]
    return {
        "prompt": task.prompt,
        "negative_prompt": task.negative_prompt,
        "width": request.width,
        "height": request.height,
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "seed": request.seed,
        "scheduler": session.settings.scheduler or type(session.model.scheduler).__name__,
        "model": session.plan.name,
        "load_format": session.settings.load_format,
        "revision": session.settings.revision,
        "variant": session.settings.variant,
        "dtype": str(session.dtype).removeprefix("torch."),
        "device": session.device.type,
        "backend": ready.backend,
        "graph": ready.entry.id if ready.entry else None,
        "adapters": _adapter_record(session, task),
    }


def adapter_name(plan: Plan) -> str | None:
    """The adapter as people know it: repository or folder, and file."""
    if plan.adapter is None:
        return None
    if plan.dummy:
        return "dummy"
    if plan.name == "demo":
        return "demo"
    return f"{plan.adapter.location}/{plan.adapter.file}"


def _adapter_record(session: Session, task: Task) -> list[dict[str, Any]]:
    if session.plan.adapter is None:
        return []
    images = [{"source": _public(reference.source), "sha256": reference.sha256} for reference in task.references]
    return [{"model": adapter_name(session.plan), "scale": task.scale, "images": images}]


def _public(source: str) -> str:
    """A reference's name without the query of its address, which may be a signature."""
    return source.partition("?")[0] if source.startswith(("http://", "https://")) else source


def _noise(session: Session, request: Request) -> Any:
    from .pipeline import initial_noise

    return initial_noise(request, session.model.unet.config.in_channels, session.device, session.dtype)


def _fields(task: Task, number: int) -> dict[str, Any]:
    request = task.requests[number]
    return {"seed": request.seed, "scale": task.scale, "index": number, "prompt": task.prompt}


def _say_what_it_is(plan: Plan, reporter: Reporter) -> None:
    if plan.dummy:
        reporter.note("seeded random weights: right for measuring, the picture means nothing")
    elif plan.name == "demo":
        reporter.note("this is the shipped miniature; `ipa generate --model sdxl` takes the real SDXL (7 GB download)")
    if plan.adapter is None:
        reporter.note("no reference picture: drawing from the prompt alone (add one with --image)")
