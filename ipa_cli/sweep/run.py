"""`ipa sweep-scale`: everything is checked and counted, then one loaded model draws every point at its scale."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ipa_cli import __version__
from ipa_cli.backends import AUTO
from ipa_cli.config import Settings
from ipa_cli.config.privacy import public_name, public_text
from ipa_cli.config.units import plural
from ipa_cli.engine.backend_choice import check_backend
from ipa_cli.engine.engine import Engine
from ipa_cli.engine.generate import say_what_it_is
from ipa_cli.engine.graphs import Ready
from ipa_cli.engine.record import adapter_name, record, scheduler_name
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.images import encode
from ipa_cli.models import schedulers
from ipa_cli.models.plan import Plan, make_plan
from ipa_cli.pipeline.prompts import warn_of_spelling
from ipa_cli.pipeline.task import Request, check_masks, load_references, make_request
from ipa_cli.result import Reporter
from ipa_cli.sweep import difference, journal, looks, plan, views
from ipa_cli.sweep.difference import Change, Frozen
from ipa_cli.sweep.journal import Outcome
from ipa_cli.sweep.looks import Look
from ipa_cli.sweep.plan import Point, Row, Sweep


@dataclass(frozen=True)
class Axes:
    """What the user varies; an empty axis takes the model's default, or the setting of a file."""

    scales: tuple[float, ...]
    prompts: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    seeds: tuple[int, ...] = ()
    embeds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """What one run added: `recompiles` are graphs made after the first call of each size; times in seconds."""

    drawn: int
    recompiles: int
    graphs: tuple[Mapping[str, Any], ...]
    timings: Mapping[str, float]


@dataclass(frozen=True)
class Swept:
    """A finished sweep; `work` is None when everything was there already."""

    folder: Path
    sweep: Sweep
    plan: Mapping[str, Any]
    outcomes: Mapping[int, Outcome]
    changes: tuple[Change, ...]
    frozen: tuple[Frozen, ...]
    work: Work | None

    @property
    def failed(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes.values() if outcome.error is not None)


def sweep_scale(
    settings: Settings,
    axes: Axes,
    folder: Path,
    reporter: Reporter,
    resume: bool = False,
    force: bool = False,
    shows_bars: bool = False,
) -> Swept:
    """Draw every point that is missing and leave the folder complete; a failing point does not stop the others."""
    if resume and force:
        raise UsageError("--resume and --force contradict each other", "leave one of them out")
    schedulers.check(settings.scheduler)
    backend = check_backend(settings.backend, settings.precision)
    found = None if force else journal.read_description(folder)
    if found is not None and not axes.seeds and settings.seed is None:
        axes = replace(axes, seeds=tuple(found["seeds"]))  # the same where they were chosen by chance
    if settings.image_weight or len(settings.mask) > 1:
        raise UsageError(
            "a row of a sweep has one picture: no --image-weight and no second --mask",
            "say them within --adapter: --adapter 'own,image=cat.png,weight=1,image=dog.png,weight=0.4'",
        )
    files = axes.embeds or ((settings.embeds,) if settings.embeds else ())
    settings = replace(_at_first_point(settings, axes), embeds=files[0] if files else None)
    model = make_plan(settings)
    if model.adapter is None:
        raise UsageError("without a reference picture there is no scale to sweep", "--image cat.png")
    base = make_request(settings, model, load_references(settings, reporter))
    schedulers.check_steps(base.scheduler, model, base.steps)
    followed = looks.lay_out(settings, model, base, files)
    sweep = _lay_out(axes, base, followed)
    warn_of_spelling((*sweep.prompts, base.negative_prompt), reporter)
    for width, height in sweep.sizes:
        check_masks(base.image_prompts, width, height)
    early = journal.describe(sweep, _known_before_loading(settings, model, base, followed, backend, sweep))
    journal.check_folder(folder, early, resume, force)
    say_what_it_is(model, reporter)
    reporter.note(f"{sweep.counted}, in {folder}")

    with journal.locked(folder):
        journal.check_folder(folder, early, resume, force)  # now that nobody else can change it
        outcomes = {} if force else journal.done(folder, sweep)
        found = None if force else journal.read_description(folder)
        missing = [point for point in sweep.points if point.number not in outcomes]
        work, whole = None, found
        if found is None or missing:
            names = _backends(backend, sweep, found)
            with _resumable(reporter):
                engine = Engine.open(settings, model, reporter, shows_bars)
                layout = Layout(base, sweep, followed)
                ready = _prepare(engine, layout, names, reporter)
                known = _known_when_ready(engine, layout, ready)
                # In the same order whether asked for or found out: the files say it in this order.
                whole = {**{name: value for name, value in early.items() if name not in known}, **known}
                journal.check_folder(folder, whole, resume or found is None, force)
                journal.begin(folder, whole, sweep, outcomes, force)
                work = _draw_all(engine, layout, ready, folder, missing, outcomes, reporter)
        assert whole is not None
        journal.write_results(folder, sweep, outcomes)
        with reporter.stage("contact sheet, animations and page"):
            changes, frozen = difference.compare(folder, outcomes)
            views.write(folder, sweep, whole, outcomes, followed, changes, frozen)
    return Swept(folder, sweep, whole, outcomes, changes, frozen, work)


# --- the plan -------------------------------------------------------------------------------------------------


def _at_first_point(settings: Settings, axes: Axes) -> Settings:
    """The settings of one picture of the sweep, so that the model's defaults fill only the axes left open."""
    chosen: dict[str, Any] = {"scale": None}
    if axes.prompts:
        chosen["prompt"] = axes.prompts[0]
    if axes.sizes:
        chosen["width"], chosen["height"] = axes.sizes[0]
    if axes.seeds:
        chosen["seed"] = axes.seeds[0]
    return replace(settings, **chosen)


def _lay_out(axes: Axes, base: Request, followed: Sequence[Look]) -> Sweep:
    """The sweep, with the axes that were left open filled in from `base`."""
    return plan.make(
        axes.scales,
        [look.name for look in followed],
        axes.prompts or (base.prompt,),
        axes.sizes or ((base.width, base.height),),
        axes.seeds or base.seeds,
    )


def _known_before_loading(
    settings: Settings, model: Plan, base: Request, followed: Sequence[Look], backend: str, sweep: Sweep
) -> dict[str, Any]:
    """What else decides how the pictures come out, as far as it is known before torch is imported."""
    chosen = {
        "scheduler": settings.scheduler,
        "dtype": None if settings.dtype == "auto" else settings.dtype,
        "backend": None if backend == AUTO else [backend] * len(sweep.sizes),
    }
    return {
        journal.REFERENCE_DIGESTS: [digest for look in followed for digest in look.digests],
        "negative_prompt": base.negative_prompt,
        "steps": base.steps,
        "guidance_scale": base.guidance_scale,
        "model": public_name(model.name),
        "load_format": settings.load_format,
        "revision": settings.revision,
        "variant": settings.variant,
        "vae": settings.vae,
        "adapter": adapter_name(model),
        "vae_tiling": settings.vae_tiling,
        **looks.plan_of(settings, followed),
        "ipa": __version__,
        **{name: value for name, value in chosen.items() if value is not None},
    }


# --- drawing --------------------------------------------------------------------------------------------------


Graphs = Mapping[tuple[int, int], Ready]  # by width and height


@dataclass(frozen=True)
class Layout:
    """The points of a sweep as requests."""

    base: Request
    sweep: Sweep
    looks: tuple[Look, ...]

    def request(self, row: Row, scale: float = 1.0) -> Request:
        """One picture, as its file records it."""
        return replace(
            self.base,
            image_prompts=self.looks[row.reference].at(scale),
            prompt=self.sweep.prompts[row.prompt],
            width=row.width,
            height=row.height,
            seeds=(row.seed,),
            batch_size=1,
        )

    @property
    def of_each_size(self) -> Mapping[tuple[int, int], Request]:
        """The request of the first row of each size."""
        rows = {(row.width, row.height): row for row in reversed(self.sweep.rows)}
        return {size: self.request(row) for size, row in reversed(rows.items())}


def _backends(asked: str, sweep: Sweep, found: Mapping[str, Any] | None) -> dict[tuple[int, int], str]:
    """The backend of every size: the one asked for; in place of auto, the one that drew the earlier part."""
    known = found.get("backend") if found is not None and asked == AUTO else None
    if not isinstance(known, list) or len(known) != len(sweep.sizes):
        known = [asked] * len(sweep.sizes)
    return {size: check_backend(str(name)) for size, name in zip(sweep.sizes, known, strict=True)}


def _prepare(engine: Engine, layout: Layout, names: Mapping[tuple[int, int], str], reporter: Reporter) -> Graphs:
    """Encode every prompt and reference, and open a graph for every size; one serves many where it can."""
    with reporter.stage("encoding prompts and references"):
        engine.encode([layout.request(row) for row in layout.sweep.rows])
    return {size: engine.prepare(request, names[size]) for size, request in layout.of_each_size.items()}


def _warm_up(engine: Engine, layout: Layout, reporter: Reporter) -> dict[tuple[int, int], float]:
    """Call the UNet for all that is done once, then once more by the clock: seconds of a step, by size."""
    seconds = {}
    with reporter.stage("warming up"):
        for size, request in layout.of_each_size.items():
            for _ in range(max(1, engine.settings.warmup) + 1):
                seconds[size] = engine.time_step(request)
    return seconds


def _known_when_ready(engine: Engine, layout: Layout, ready: Graphs) -> dict[str, Any]:
    """The rest of what decides how the pictures come out."""
    import torch

    device, graphs = engine.device, [ready[size] for size in layout.sweep.sizes]
    return {
        "scheduler": scheduler_name(engine, layout.base),
        "dtype": str(engine.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "backend": [one.backend for one in graphs],
        "graph": [one.entry.id if one.entry else None for one in graphs],
        "torch": torch.__version__,
    }


def _graphs_made(ready: Graphs) -> int:
    """CUDA graphs captured and functions compiled in this process so far."""
    captured = {id(one.denoiser): getattr(one.denoiser, "captures", 0) for one in ready.values()}
    dynamo = sys.modules.get("torch._dynamo.utils")  # not imported: nothing was compiled
    return sum(captured.values()) + (dynamo.counters["stats"]["unique_graphs"] if dynamo else 0)


def _draw_all(
    engine: Engine,
    layout: Layout,
    ready: Graphs,
    folder: Path,
    missing: Sequence[Point],
    outcomes: dict[int, Outcome],
    reporter: Reporter,
) -> Work:
    """Draw the missing points into `outcomes` and onto the disk, row by row."""
    step_seconds = _warm_up(engine, layout, reporter)
    made = _graphs_made(ready)
    steps = layout.base.steps
    expected = sum(steps * step_seconds[point.row.width, point.row.height] for point in missing)
    what = f"{plural(len(missing), 'picture')} to draw, {plural(steps, 'step')} each"
    reporter.note(f"{what}: about {_span(expected)}")

    started = time.perf_counter()
    for drawn, point in enumerate(missing, 1):
        outcome = _draw(engine, layout, ready, folder, point)
        journal.append(folder, layout.sweep, outcome)
        outcomes[point.number] = outcome
        left = (time.perf_counter() - started) / drawn * (len(missing) - drawn)
        name = Path(point.file).name
        if outcome.error is not None:
            reporter.warn(f"{name} failed: {outcome.error}")
        reporter.note(f"{drawn} of {len(missing)}: {name}" + (f", {_span(left)} left" if left else ""))
    seconds = time.perf_counter() - started
    graphs = [{"size": list(size), **one.facts} for size, one in ready.items()]
    timings = {"estimate_s": expected, "drawing_s": seconds, "step_s": max(step_seconds.values())}
    return Work(len(missing), _graphs_made(ready) - made, tuple(graphs), timings)


def _draw(engine: Engine, layout: Layout, ready: Graphs, folder: Path, point: Point) -> Outcome:
    """Draw one point and write its picture; what fails foreseeably while drawing is a failed point, and no more."""
    request = layout.request(point.row, point.scale)
    try:
        drawing = engine.draw(request, Path(point.file).name)
    except IpaError as error:
        return Outcome(point, None, public_text(error.message))
    asked = _as_asked(engine.settings, request)
    settings = record(engine, asked, ready[point.row.width, point.row.height], request, 0)
    saved = encode.save(folder / point.file, drawing.images[0], settings, force=True)
    return Outcome(point, saved.sha256)


def _as_asked(settings: Settings, request: Request) -> Settings:
    """The settings as `ipa generate` would have them for this picture alone: with the embeddings of its row."""
    embeds = request.image_prompts[0].embeds
    return settings if settings.adapter or embeds is None else replace(settings, embeds=embeds.source)


@contextmanager
def _resumable(reporter: Reporter) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        reporter.warn("stopped; the same command with --resume goes on")
        raise


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
