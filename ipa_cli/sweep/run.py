"""`ipa sweep-scale`: everything is checked and counted, then one loaded model draws every point at its scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ipa_cli.backends import AUTO
from ipa_cli.config import Settings, check_not_stdin
from ipa_cli.config.controls import CHECKS
from ipa_cli.config.loras import WEIGHT
from ipa_cli.engine import schedules
from ipa_cli.engine.backend_choice import check_backend
from ipa_cli.engine.engine import Engine
from ipa_cli.engine.generate import note_model
from ipa_cli.engine.record import drawn_by
from ipa_cli.errors import UsageError
from ipa_cli.models import schedulers
from ipa_cli.models.lora.lora import Lora, load
from ipa_cli.models.plan import Plan, make_plan
from ipa_cli.models.prompts import embeddings
from ipa_cli.pipeline import control, hires, init_image, prompts, regions, sampling, unused
from ipa_cli.pipeline.image_prompt import check_masks, of_mode
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.task import make_request, with_tags
from ipa_cli.result import Reporter
from ipa_cli.sweep import difference, draw, journal, outputs, plan, reference_sets
from ipa_cli.sweep.difference import Change, Frozen
from ipa_cli.sweep.draw import Stats
from ipa_cli.sweep.elsewhere import Elsewhere, draw_points
from ipa_cli.sweep.journal import Outcome
from ipa_cli.sweep.layout import Layout, Size, describe_request, with_engines
from ipa_cli.sweep.plan import Sweep
from ipa_cli.sweep.reference_sets import ReferenceSet


@dataclass(frozen=True)
class Axes:
    """What the user varies; an empty axis takes the model's default, or the setting of a file."""

    scales: tuple[float, ...]
    prompts: tuple[str, ...] = ()
    sizes: tuple[Size, ...] = ()
    seeds: tuple[int, ...] = ()
    embeds: tuple[str, ...] = ()
    lora_weights: tuple[float, ...] = (1.0,)
    modes: tuple[str, ...] = ()
    control_scales: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep; `plan` is that of `sweep.json`, `stats` is None if all pictures existed already."""

    folder: Path
    sweep: Sweep
    plan: Mapping[str, Any]
    outcomes: Mapping[int, Outcome]
    changes: tuple[Change, ...]
    frozen: tuple[Frozen, ...]
    stats: Stats | None

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
    elsewhere: Elsewhere | None = None,
) -> SweepResult:
    """Draw every point that is missing and leave the folder complete; a failing point does not stop the others.

    `elsewhere` draws with engines of other processes, None with one of this.
    """
    if resume and force:
        raise UsageError("--resume and --force contradict each other", "leave one of them out")
    schedulers.choose(settings.scheduler, settings.schedule, settings.eta)
    backend = check_backend(settings.backend, settings.precision)
    existing = None if force else journal.read_description(folder)
    if existing is not None and not axes.seeds and settings.seed is None:
        axes = replace(axes, seeds=tuple(existing["seeds"]))  # those that were chosen at random
    if elsewhere is not None:
        check_not_stdin(settings, "other processes draw, and stdin is not theirs")
    settings, model, layout = _lay_out(settings, axes, reporter)
    sweep = layout.sweep
    requested = journal.describe(sweep, describe_request(settings, model, layout, backend))
    journal.check_folder(folder, requested, resume, force)
    note_model(settings, model, reporter)
    reporter.note(f"{sweep.summary}, in {folder}")

    with journal.locked(folder):
        journal.check_folder(folder, requested, resume, force)  # now that no other sweep can change it
        outcomes = {} if force else journal.completed(folder, sweep)
        existing = None if force else journal.read_description(folder)
        missing = [point for point in sweep.points if point.number not in outcomes]
        stats = None
        backends = _backends(backend, sweep, existing)
        if (existing is None or missing) and elsewhere is not None:
            with _resume_hint(reporter):
                described = requested if existing is None else existing
                journal.begin(folder, described, sweep, outcomes, force)
                if len(set(backends.values())) == 1:
                    settings = replace(settings, backend=next(iter(backends.values())))
                described, stats = draw_points(
                    elsewhere, settings, layout, folder, described, missing, outcomes, reporter
                )
        elif existing is None or missing:
            with _resume_hint(reporter):
                engine = Engine.open(settings, model, reporter, shows_bars)
                graphs = draw.prepare(engine, layout, backends, reporter)
                described = with_engines(requested, [drawn_by(engine, graphs[size]) for size in sweep.sizes])
                journal.check_folder(folder, described, resume or existing is None, force)
                journal.begin(folder, described, sweep, outcomes, force)
                stats = draw.draw_points(engine, layout, graphs, folder, missing, outcomes, reporter)
        else:
            described = existing
        journal.write_results(folder, sweep, outcomes)
        with reporter.stage("contact sheet, animations and page"):
            changes, frozen = difference.compare(folder, outcomes)
            outputs.write(folder, sweep, described, outcomes, layout.reference_sets, changes, frozen)
    return SweepResult(folder, sweep, described, outcomes, changes, frozen, stats)


def _check_weights(loras: Sequence[Lora]) -> None:
    """Raise UsageError for a LoRA that becomes stronger than `--lora` allows: its picture could not be drawn again."""
    for lora in loras:
        strongest = max(lora.weight, lora.text_weight, key=abs)
        if problem := WEIGHT(strongest):
            raise UsageError(
                f"--lora-weights multiplies the weight of {lora.file.name} to {strongest:g}: {problem}",
                "give smaller weights",
            )


def _check_modes(settings: Settings, modes: Sequence[str], references: Sequence[ReferenceSet]) -> None:
    """Raise UsageError for several modes that nothing of a row follows."""
    if len(modes) > 1 and settings.ip_layers is not None:
        raise UsageError("--ip-mode and --ip-layers both choose layers", "leave one of them out")
    if len(modes) > 1 and all(all(one.own_mode) for one in references):
        raise UsageError("every --adapter has layers of its own: there is no mode to vary", "give --ip-mode once")


def _check_control_scales(settings: Settings, factors: Sequence[float]) -> None:
    """Raise UsageError without a ControlNet, and for one whose scale becomes larger than `--control` allows."""
    if factors == (1.0,):
        return
    if not settings.control:
        raise UsageError(
            "--control-scales is given and there is no ControlNet", "add --control owner/name,image=pose.png"
        )
    for config in settings.control:
        strongest = config.times(max(factors)).scale
        if problem := CHECKS["scale"](strongest):
            raise UsageError(
                f"--control-scales multiplies the scale of {config.place} to {strongest:g}: {problem}",
                "give smaller factors",
            )


def _lay_out(settings: Settings, axes: Axes, reporter: Reporter) -> tuple[Settings, Plan, Layout]:
    """The settings of the first point, its model, and all points as requests; everything checked before loading."""
    if settings.image_weight or len(settings.mask) > 1:
        raise UsageError(
            "a row of a sweep has one picture: no --image-weight and no second --mask",
            "combine pictures with --adapter: --adapter 'own,image=cat.png,weight=1,image=dog.png,weight=0.4'",
        )
    if settings.image_per_picture and settings.adapter:
        reporter.note("--image-per-picture has no effect: a row of this sweep has the references of every --adapter")
    embeds = axes.embeds or ((settings.embeds,) if settings.embeds else ())
    settings = replace(_at_first_point(settings, axes), embeds=embeds[0] if embeds else None)
    model = make_plan(settings)
    if model.adapter is None:
        raise UsageError("without a reference picture there is no scale to sweep", "--image cat.png")
    loras = load(settings.lora, model, reporter)
    loaded = load_references(settings, reporter)
    base = make_request(settings, model, loaded, loras, reporter)
    init_image.check_model(base.init, model)
    sampling.advise(settings, model, base.loras, reporter)
    for one in base.passes:
        schedules.find(settings, model, one.sampling, one.steps, reporter)
    references = reference_sets.make(settings, model, base, embeds)
    _check_modes(settings, axes.modes, references)
    sweep = plan.make(
        axes.scales,
        [reference_set.name for reference_set in references],
        axes.prompts or (base.prompt,),
        axes.sizes or ((base.width, base.height),),
        axes.seeds or base.seeds,
        axes.lora_weights,
        axes.modes if len(axes.modes) > 1 else (None,),
        axes.control_scales,
    )
    texts = tuple(with_tags(replace(settings, prompt=prompt), model, loras) for prompt in axes.prompts)
    texts = texts or ((base.prompt, base.loras),)
    if axes.lora_weights != (1.0,) and all(lora.of_adapter for _, found in texts for lora in found):
        raise UsageError("--lora-weights is given and there is no LoRA", "add --lora FILE")
    _check_control_scales(settings, axes.control_scales)
    sampling.check_same(settings, model, [found for _, found in texts])
    _check_weights([lora.times(factor) for factor in axes.lora_weights for _, found in texts for lora in found])
    words = (*(text for text, _ in texts), *base.texts[1:])
    base = replace(base, embeddings=embeddings.of_prompts(settings, model, words))
    prompts.review(words, base, reporter)
    prompts.warn_of_unused(settings, words, base, reporter)
    for size in sweep.sizes:
        control.note_size(base.controls, size, reporter)
        hires.check(base.hires, *size, base.steps, base.init)
        for enlarged in hires.sizes(base.hires, *size):
            check_masks(base.image_prompts, *enlarged)
            regions.check(base.regions, *enlarged)
    inits = {size: init_image.make(settings, model, loaded.init, size) for size in sweep.sizes} if loaded.init else {}
    for init in inits.values():
        init_image.note_size(init, reporter)
    patterns = {mode: of_mode(mode, model) for mode in sweep.modes if mode is not None}
    layout = Layout(base, sweep, references, texts, inits, patterns)
    unused.remark(settings, layout.request(sweep.rows[0]), reporter)
    return settings, model, layout


def _at_first_point(settings: Settings, axes: Axes) -> Settings:
    """The settings of one picture of the sweep, so that the model's defaults fill only the axes left open."""
    chosen: dict[str, Any] = {"scale": None, "image_per_picture": False}
    if axes.prompts:
        chosen["prompt"] = axes.prompts[0]
    if axes.sizes:
        chosen["width"], chosen["height"] = axes.sizes[0]
    if axes.seeds:
        chosen["seed"] = axes.seeds[0]
    if axes.modes:
        chosen["ip_mode"] = axes.modes[0]
    return replace(settings, **chosen)


def _backends(asked: str, sweep: Sweep, existing: Mapping[str, Any] | None) -> dict[Size, str]:
    """The backend of every size: the one asked for; in place of auto, the one that drew the earlier part."""
    names = existing.get("backend") if existing is not None and asked == AUTO else None
    if not isinstance(names, list) or len(names) != len(sweep.sizes):
        names = [asked] * len(sweep.sizes)
    return {size: check_backend(str(name)) for size, name in zip(sweep.sizes, names, strict=True)}


@contextmanager
def _resume_hint(reporter: Reporter) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        reporter.warn("stopped; the same command with --resume continues")
        raise
