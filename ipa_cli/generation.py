"""`ipa generate`: everything is checked, then the model is loaded, then pictures are drawn and written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import models, pictures, repeat, schedulers, session
from .config import Settings
from .record import adapter_name, record
from .report import Reporter
from .task import load_references, make_task, name_fields

if TYPE_CHECKING:
    from .graphs import Ready
    from .models import Plan


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


def generate(
    settings: Settings,
    reporter: Reporter,
    force: bool,
    shows_bars: bool,
    recorded: repeat.Recorded | None = None,
) -> Generated:
    """Draw and write the pictures `settings` ask for; all that can be wrong is looked for before the long work.

    `recorded` is the picture that `settings` were read from.
    """
    started = time.perf_counter()
    schedulers.check(settings.scheduler)
    backend = session.check_backend(settings.backend)
    pictures.plan_paths(settings.output, [{"seed": 0, "scale": 0, "index": 0, "prompt": ""}], force)
    if recorded is not None:
        repeat.check_there(recorded, settings)
    loaded = load_references(settings, reporter)
    plan = models.plan(settings)
    task = make_task(settings, plan, loaded)
    if recorded is not None:
        repeat.check_same(recorded, settings, task.references, reporter)
    paths = pictures.plan_paths(settings.output, [name_fields(task, n) for n in range(len(task.requests))], force)
    for folder in {path.parent: path for path in paths}.values():
        pictures.check_writable(folder)
    say_what_it_is(plan, reporter)

    opened = session.open_session(settings, plan, reporter, shows_bars)
    loaded_at = time.perf_counter()
    conditions = session.condition(opened, task, reporter)
    ready = session.make_ready(opened, backend, task.requests[0], conditions, reporter)
    ready_at = time.perf_counter()
    first_step = session.warm_up(opened, ready.denoiser, task.requests[0], conditions, reporter)
    warmed_at = time.perf_counter()

    images, speeds = [], []
    for number, (request, path) in enumerate(zip(task.requests, paths, strict=True)):
        image, clock = session.draw(opened, ready.denoiser, request, conditions, path.name, reporter)
        saved = pictures.write_png(path, image, record(opened, ready, task, number), force)
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
        peak_gib=peak_gib(opened.device),
        backend=ready.backend,
        graph=graph_facts(ready),
        device=str(opened.device),
        dtype=str(opened.dtype).removeprefix("torch."),
        model=plan.name,
        adapter=adapter_name(plan),
        steps=task.requests[0].steps,
        references=tuple(reference.source for reference in task.references),
    )


def graph_facts(ready: Ready) -> dict[str, Any]:
    """Which graph drew, as data."""
    return {"origin": ready.origin, "id": ready.entry.id if ready.entry else None, "why": ready.why}


def say_what_it_is(plan: Plan, reporter: Reporter) -> None:
    """A line on what people get who did not choose a model, or no reference picture."""
    if plan.dummy:
        reporter.note("seeded random weights: right for measuring, the picture means nothing")
    elif plan.name == "demo":
        about = plan.defaults["about"]
        reporter.note(f"this is {about}; `ipa generate --model sdxl` takes the real SDXL (an 11 GB download)")
    if plan.adapter is None:
        reporter.note("no reference picture: drawing from the prompt alone (add one with --image)")
