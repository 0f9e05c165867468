"""Where model, backend, pipeline and pictures meet; a command asks here and gets plain data back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import backends, models, pictures, references, schedulers
from .config import Settings, suggest
from .errors import UsageError
from .report import Reporter

if TYPE_CHECKING:
    import torch

    from .backends import Denoiser
    from .loading import Model
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
    """A loaded model with its backend, ready to draw."""

    settings: Settings
    plan: Plan
    model: Model
    device: torch.device
    dtype: torch.dtype
    backend: str
    denoiser: Denoiser


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
    backend = choose_backend(settings.backend)
    pictures.plan_paths(settings.output, [{"seed": 0, "scale": 0, "index": 0, "prompt": ""}], force)
    loaded = [references.load(member) for text in settings.image for member in references.expand(text)]
    plan = models.plan(settings)
    task = make_task(settings, plan, tuple(loaded))
    paths = pictures.plan_paths(settings.output, [_fields(task, n) for n in range(len(task.requests))], force)
    for folder in {path.parent: path for path in paths}.values():
        pictures.check_writable(folder)
    _say_what_it_is(plan, reporter)

    session = open_session(settings, plan, backend, reporter, shows_bars)
    loaded_at = time.perf_counter()
    conditions = condition(session, task, reporter)
    warm_up(session, task.requests[0], conditions, reporter)
    warmed_at = time.perf_counter()

    images, speeds = [], []
    for number, (request, path) in enumerate(zip(task.requests, paths, strict=True)):
        image, clock = draw(session, request, conditions, path.name, reporter)
        saved = pictures.write_png(path, image, record(session, task, number), force)
        images.append(Drawn(saved.path, request.seed, task.scale, image.width, image.height, saved.sha256))
        speeds.append(clock)
    ended = time.perf_counter()

    from .measure import peak_gib

    step_seconds = sum(clock.seconds for clock in speeds)
    return Generated(
        images=tuple(images),
        timings={
            "load_s": loaded_at - started,
            "warmup_s": warmed_at - loaded_at,
            "inference_s": ended - warmed_at,
            "e2e_s": ended - started,
            "it_per_s": sum(request.steps for request in task.requests) / step_seconds if step_seconds else 0.0,
        },
        peak_gib=peak_gib(session.device),
        backend=backend,
        device=str(session.device),
        dtype=str(session.dtype).removeprefix("torch."),
        model=plan.name,
        adapter=adapter_name(plan),
        steps=task.requests[0].steps,
        references=tuple(reference.source for reference in task.references),
    )


def choose_backend(name: str) -> str:
    """The backend to use. Raises UsageError for an unknown one."""
    name = BACKEND_ALIASES.get(name, name)
    if name == AUTO:
        return "eager"
    if name not in backends.MODULES:
        known = (AUTO, *backends.MODULES)
        raise UsageError(f"unknown backend '{name}'{suggest(name, known)}", f"choose one of {', '.join(known)}")
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


def open_session(settings: Settings, plan: Plan, backend: str, reporter: Reporter, shows_bars: bool) -> Session:
    """Load the model and hand its UNet to the backend."""
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
            module = backends.get(backend)
            options = module.options(settings.compile_options)
            if offload != "none":
                # A CUDA graph remembers where the weights lie, and offloading moves them.
                options = {**options, "cuda_graph": False}
                reporter.note("weights are offloaded: the UNet runs without a CUDA graph")
            denoiser = module.load(model.unet, None, options)
    return Session(settings, plan, model, device, dtype, backend, denoiser)


def condition(session: Session, task: Task, reporter: Reporter) -> Conditions:
    """Encode prompt and references, and make every layer's keys and values, once."""
    from . import attention, conditioning, devices
    from .pipeline import Conditions

    model, device, offload = session.model, session.device, session.settings.offload
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


def warm_up(session: Session, request: Request, conditions: Conditions, reporter: Reporter) -> None:
    """Call the UNet `warmup` times untimed, so that nothing done once is counted as speed."""
    import torch

    from . import devices, measure, pipeline

    if not session.settings.warmup:
        return
    with (
        reporter.stage("warming up"),
        devices.memory_in_words(session.device, session.settings.offload, session.settings.vae_tiling),
    ):
        sample = _noise(session, request)
        timestep = torch.tensor(500.0, device=session.device)
        inputs = pipeline.unet_inputs(request, conditions, sample, timestep)
        with devices.brought_to(session.device, session.settings.offload, session.model.unet):
            for _ in range(session.settings.warmup):
                session.denoiser(inputs)
            measure.synchronize(session.device)


def draw(session: Session, request: Request, conditions: Conditions, name: str, reporter: Reporter) -> Any:
    """One picture and the clock of its steps."""
    from . import devices, measure, pipeline

    settings, device, model = session.settings, session.device, session.model
    clock = measure.StepClock(device)
    with devices.memory_in_words(device, settings.offload, settings.vae_tiling):
        scheduler = schedulers.create(settings.scheduler, model.scheduler)
        with reporter.steps(name, request.steps) as advance, devices.brought_to(device, settings.offload, model.unet):
            latents = pipeline.denoise(
                request, conditions, session.denoiser, scheduler, _noise(session, request), clock, advance
            )
        with devices.brought_to(device, settings.offload, model.vae):
            return pipeline.decode(model.vae, latents), clock


def record(session: Session, task: Task, number: int) -> dict[str, Any]:
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
        "backend": session.backend,
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
    images = [{"source": reference.source, "sha256": reference.sha256} for reference in task.references]
    return [{"model": adapter_name(session.plan), "scale": task.scale, "images": images}]


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
