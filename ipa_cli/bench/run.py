"""`ipa bench`: every part in a process of its own, results on disk after each, whatever happens next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ipa_cli.bench import drawn, files, plan, process, results
from ipa_cli.bench.plan import Part, Spec
from ipa_cli.bench.results import Bench, Column
from ipa_cli.config import Settings
from ipa_cli.config.privacy import public_settings
from ipa_cli.config.values import settings_as_json
from ipa_cli.hardware import cores, probe
from ipa_cli.pipeline.prompts import warn_of_spelling
from ipa_cli.result import Reporter

SAME = 1e-5  # within which sums of the same numbers agree
DISTURBING = 0.25  # of the cores: what others may use before it shows in the figures
UNFINISHED, INTERRUPTED, OUT_OF_TIME = "not finished", "interrupted", "out of time"


@dataclass(frozen=True)
class Limits:
    """How often each backend is measured, and within how many seconds everything; None: as long as it takes."""

    runs: int
    budget: float | None = None


@dataclass(frozen=True)
class Work:
    """What every backend draws: `batch` pictures at once, alike but for their seeds."""

    settings: Settings
    batch: int = 1


def asked(work: Work, specs: Sequence[Spec]) -> dict[str, Any]:
    """What is to be measured, as far as two benches must agree in it to be compared."""
    settings = work.settings
    ranges = {str(plan.options(spec)["dynamic"]) for spec in specs if plan.options(spec).get("dynamic")}
    return {
        "size": f"{settings.width}x{settings.height}" if settings.width else "the model's own",
        "batch": work.batch,
        "dynamic": sorted(ranges),
        **public_settings(settings, files.TASK),
    }


def bench(
    work: Work,
    specs: Sequence[Spec],
    limits: Limits,
    folder: Path,
    reporter: Reporter,
    earlier: Mapping[str, Any] | None = None,
) -> Bench:
    """Measure `specs` in turn, one process each; after every part `folder` holds all that is known so far.

    An interrupt or the end of the budget ends it early, and what was measured is returned. `earlier` is what a bench
    of the same that ended early left in `folder` (see `files.begun`): this one goes on with it, its graphs included.
    """
    warn_of_spelling((work.settings.prompt or "", work.settings.negative_prompt), reporter)
    started = time.monotonic()
    ends = math.inf if limits.budget is None else started + limits.budget
    done = replace(_begin(work, specs, earlier or {}), runs=limits.runs)
    before, stopped = done.seconds, None
    if not earlier:
        files.clear(folder)
    files.write(folder, done)
    todo = [part for part in plan.parts(specs, limits.runs) if not _is_measured(done, part)]
    try:
        for number, part in enumerate(todo):
            if _is_hopeless(done, part.spec):
                continue
            if time.monotonic() + (_seconds(done, part.spec) or 0) > ends:
                stopped = OUT_OF_TIME  # a shorter one may still fit
                continue
            with reporter.stage(f"[{number + 1}/{len(todo)}] {part}{_time_left(done, todo[number:])}") as doing:
                done, late = _measure(done, part, work, folder, reporter, doing, ends)
            done = _compared(replace(done, seconds=before + time.monotonic() - started), folder, reporter)
            files.write(folder, done)
            if late:
                stopped = OUT_OF_TIME
                break
    except KeyboardInterrupt:
        stopped = INTERRUPTED
    done = replace(done, seconds=before + time.monotonic() - started, stopped=stopped)
    files.write(folder, done)
    if stopped is None:
        files.clear(folder)
    return done


def machine() -> dict[str, Any]:
    """GPU, driver and processor of this machine."""
    found = probe.machine()
    return {
        "gpu": found.gpu.name if found.gpu else None,
        "driver": found.gpu.driver if found.gpu else None,
        "cpu": _processor(),
        "cores": cores.usable(),
    }


def _begin(work: Work, specs: Sequence[Spec], earlier: Mapping[str, Any]) -> Bench:
    base = plan.baseline(specs)
    kept = {key: results.measured(earlier, key) if earlier else {} for key in ("backends", "references")}
    return Bench(
        date=earlier.get("date") or datetime.now(timezone.utc).isoformat(timespec="seconds"),
        asked=asked(work, specs),
        machine=machine(),
        columns=tuple(kept["backends"].get(spec, Column(spec)) for spec in specs),
        baseline=base.text if base else None,
        references=tuple(kept["references"].get(spec, Column(spec)) for spec in plan.references(specs)),
        seconds=earlier.get("seconds", 0.0),
        stopped=UNFINISHED,
    )


def _measure(
    done: Bench,
    part: Part,
    work: Work,
    folder: Path,
    reporter: Reporter,
    doing: Callable[[str], None],
    ends: float,
) -> tuple[Bench, bool]:
    """`done` with what one process told, and whether the end of the time ended it."""
    began, before = time.monotonic(), cores.snapshot()
    job, log = _job(part, work, folder), files.log(folder, part)
    answer = process.ask(job, part.spec.python, log, doing, reporter.warn, None if math.isinf(ends) else ends)
    if disturbed := _disturbed(cores.others(before)):
        reporter.warn(f"{part}: {disturbed}")
        answer = replace(answer, warnings=(*answer.warnings, f"run {part.number}: {disturbed}"))
    if answer.figures is not None:
        more = {"process_s": time.monotonic() - began, "warnings": list(answer.warnings)}
        answer = replace(answer, figures={**answer.figures, **more})
    if answer.reason and not answer.late:
        reporter.warn(f"{part.spec.text}: {answer.reason}")

    def told(columns: tuple[Column, ...]) -> tuple[Column, ...]:
        return tuple(_with(column, part, answer) if column.spec == part.spec else column for column in columns)

    if part.kind == "reference":
        return replace(done, references=told(done.references)), answer.late
    return replace(done, columns=told(done.columns)), answer.late


def _disturbed(elsewhere: float) -> str:
    """What to say of figures that were taken while other programs used so many cores; nothing where they left most."""
    here = cores.usable()
    if elsewhere < DISTURBING * here:
        return ""
    return f"other programs used {elsewhere:.1f} of {here} cores meanwhile: its figures are worse than they could be"


def _with(column: Column, part: Part, answer: process.Answer) -> Column:
    column = replace(column, environment=answer.environment or column.environment)
    if answer.figures is not None:
        column = replace(column, runs=(*column.runs, answer.figures))
    if answer.reason is None:
        return column
    return replace(column, reason=f"{part.kind} {part.number}: {answer.reason}", hint=answer.hint, log=answer.log)


def _job(part: Part, work: Work, folder: Path) -> dict[str, Any]:
    chosen = replace(
        work.settings,
        backend=part.spec.backend,
        compile_options=part.spec.options,
        compile=True,
        offload="none",
        num_images=1,
        cache_dir=files.graphs(folder, part.spec),
    )
    return {
        "folder": _here(),
        "settings": settings_as_json(chosen),
        "batch": work.batch,
        "keep": str(files.drawn(folder, part.spec)) if part.number == 1 else None,
        "exact": plan.is_plain(part.spec),
    }


def _here() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it has been deleted
        return None


def _compared(done: Bench, folder: Path, reporter: Reporter) -> Bench:
    """`done` with the parity of every column whose pictures, and those of its reference, were kept by now."""
    specs = [column.spec for column in done.columns]
    everything = {column.spec: column for column in (*done.columns, *done.references)}

    def compared(column: Column) -> Column:
        reference = everything[plan.reference_of(column.spec, specs)]
        paths = [files.drawn(folder, one.spec) for one in (column, reference)]
        if column.parity or not (column.runs and reference.runs and all(path.exists() for path in paths)):
            return column
        if not _drew_alike(column, reference):
            reporter.warn(
                f"{column.spec.text}: its weights or inputs are not those of {reference.spec.text}: no parity"
            )
            return column
        return replace(column, parity=drawn.compare(*paths))

    return replace(done, columns=tuple(map(compared, done.columns)))


def _drew_alike(column: Column, reference: Column) -> bool:
    """Whether two columns had the same weights and inputs, as far as their sums tell."""
    pairs = [(column.runs[0][name], reference.runs[0][name]) for name in ("weights_sum", "inputs_sum")]
    return all(math.isclose(one, other, rel_tol=SAME) for one, other in pairs)


def _is_measured(done: Bench, part: Part) -> bool:
    columns = done.references if part.kind == "reference" else done.columns
    return any(column.spec == part.spec and len(column.runs) >= part.number for column in columns)


def _is_hopeless(done: Bench, spec: Spec) -> bool:
    """Whether the backend's first process failed: the others would too."""
    return any(column.reason and not column.runs for column in done.columns if column.spec == spec)


def _seconds(done: Bench, spec: Spec) -> float | None:
    """About how long the next process of a backend takes: what its last one took but for compiling."""
    runs = next((column.runs for column in done.columns if column.spec == spec), ())
    return runs[-1]["process_s"] - runs[-1]["compile_s"] if runs else None


def _time_left(done: Bench, todo: Sequence[Part]) -> str:
    """About how long the parts to do will take, in words, once it can be told."""
    known = [_seconds(done, part.spec) for part in todo if not _is_hopeless(done, part.spec)]
    if not known or None in known:
        return ""
    left = sum(filter(None, known))
    return f", about {left:.0f} s left" if left < 90 else f", about {left / 60:.0f} min left"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or probe.instruction_set()[0]
