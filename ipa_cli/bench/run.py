"""`ipa bench`: every job in a process of its own, results on disk after each, whatever happens next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ipa_cli.bench import files, machine, parity, process, progress, results_file, schedule
from ipa_cli.bench import specs as backend_specs
from ipa_cli.bench.results import BackendResult, BenchResults
from ipa_cli.bench.schedule import Job
from ipa_cli.bench.specs import BackendSpec
from ipa_cli.config import Settings
from ipa_cli.config.privacy import public_settings
from ipa_cli.config.values import settings_as_json
from ipa_cli.engine import tuned
from ipa_cli.hardware import cores
from ipa_cli.pipeline import prompts
from ipa_cli.result import Reporter

UNFINISHED, INTERRUPTED, OUT_OF_TIME = "not finished", "interrupted", "out of time"


@dataclass(frozen=True)
class Limits:
    """How often each backend is measured, and within how many seconds everything; None: as long as it takes."""

    runs: int
    budget: float | None = None


@dataclass(frozen=True)
class Workload:
    """What every backend draws: `batch` pictures at once, alike but for their seeds."""

    settings: Settings
    batch: int = 1


def describe(workload: Workload, specs: Sequence[BackendSpec]) -> dict[str, Any]:
    """The workload as JSON keeps it: all in which two benches must agree to be compared."""
    settings = workload.settings
    ranges = [backend_specs.options(spec).get("dynamic") for spec in specs]
    return {
        "size": f"{settings.width}x{settings.height}" if settings.width else "the model's own",
        "batch": workload.batch,
        "dynamic": sorted({str(one) for one in ranges if one}),
        **public_settings(settings, files.WORKLOAD),
    }


def bench(
    workload: Workload,
    specs: Sequence[BackendSpec],
    limits: Limits,
    folder: Path,
    reporter: Reporter,
    earlier: Mapping[str, Any] | None = None,
) -> BenchResults:
    """Measure `specs` in turn, one process each; after every job `folder` holds all that is known so far.

    An interrupt or the end of the budget ends it early, and what was measured is returned. `earlier` is what an
    unfinished bench of the same workload left in `folder` (see `files.unfinished`): this one continues it with its
    graphs.
    """
    asked = workload.settings
    prompts.check((asked.prompt or "", asked.negative_prompt), asked.prompt_syntax, reporter)
    for backend in dict.fromkeys(spec.backend for spec in specs):
        tuned.warn(asked, backend, reporter)
    started = time.monotonic()
    ends = math.inf if limits.budget is None else started + limits.budget
    results = replace(_begin(workload, specs, earlier or {}), runs=limits.runs)
    seconds_before, stopped = results.seconds, None
    if not earlier:
        files.remove_work(folder)
    files.write(folder, results)
    todo = [job for job in schedule.jobs(specs, limits.runs) if not progress.is_measured(results, job)]
    try:
        for number, job in enumerate(todo):
            if progress.cannot_run(results, job.spec):
                continue
            if time.monotonic() + (progress.expected_seconds(results, job.spec) or 0) > ends:
                stopped = OUT_OF_TIME  # a shorter one may still fit
                continue
            title = f"[{number + 1}/{len(todo)}] {job}{progress.time_left(results, todo[number:])}"
            with reporter.stage(title) as doing:
                results, timed_out = _measure(results, job, workload, folder, reporter, doing, ends)
            results = replace(results, seconds=seconds_before + time.monotonic() - started)
            results = _with_parity(results, folder, reporter)
            files.write(folder, results)
            if timed_out:
                stopped = OUT_OF_TIME
                break
    except KeyboardInterrupt:
        stopped = INTERRUPTED
    results = replace(results, seconds=seconds_before + time.monotonic() - started, stopped=stopped)
    files.write(folder, results)
    if stopped is None:
        files.remove_work(folder)
    return results


def _begin(workload: Workload, specs: Sequence[BackendSpec], earlier: Mapping[str, Any]) -> BenchResults:
    """Results with the runs of an `earlier` bench and nothing else."""
    base = schedule.baseline(specs)
    kept = {key: results_file.measured(earlier, key) if earlier else {} for key in ("backends", "references")}
    return BenchResults(
        date=earlier.get("date") or datetime.now(timezone.utc).isoformat(timespec="seconds"),
        asked=describe(workload, specs),
        machine=machine.describe(),
        backends=tuple(kept["backends"].get(spec, BackendResult(spec)) for spec in specs),
        baseline=base.text if base else None,
        references=tuple(kept["references"].get(spec, BackendResult(spec)) for spec in schedule.references(specs)),
        seconds=earlier.get("seconds", 0.0),
        stopped=UNFINISHED,
    )


def _measure(
    results: BenchResults,
    job: Job,
    workload: Workload,
    folder: Path,
    reporter: Reporter,
    doing: Callable[[str], None],
    ends: float,
) -> tuple[BenchResults, bool]:
    """`results` with those of one process, and whether it ran out of time."""
    began, before = time.monotonic(), cores.snapshot()
    found = process.run_worker(
        _worker_job(job, workload, folder),
        job.spec.python,
        files.log(folder, job),
        doing,
        reporter.warn,
        None if math.isinf(ends) else ends,
    )
    if disturbance := machine.disturbance(cores.others(before)):
        reporter.warn(f"{job}: {disturbance}")
        found = replace(found, warnings=(*found.warnings, f"run {job.number}: {disturbance}"))
    if found.figures is not None:
        more = {"process_s": time.monotonic() - began, "warnings": list(found.warnings)}
        found = replace(found, figures={**found.figures, **more})
    if found.reason and not found.timed_out:
        reporter.warn(f"{job.spec.text}: {found.reason}")

    def updated(backends: tuple[BackendResult, ...]) -> tuple[BackendResult, ...]:
        return tuple(_with_run(backend, job, found) if backend.spec == job.spec else backend for backend in backends)

    if job.kind == "reference":
        return replace(results, references=updated(results.references)), found.timed_out
    return replace(results, backends=updated(results.backends)), found.timed_out


def _with_run(backend: BackendResult, job: Job, found: process.WorkerResult) -> BackendResult:
    backend = replace(backend, environment=found.environment or backend.environment)
    if found.figures is not None:
        backend = replace(backend, runs=(*backend.runs, found.figures))
    if found.reason is None:
        return backend
    return replace(backend, reason=f"{job.kind} {job.number}: {found.reason}", hint=found.hint, log=found.log)


def _worker_job(job: Job, workload: Workload, folder: Path) -> dict[str, Any]:
    """What `worker` is sent."""
    settings = replace(
        workload.settings,
        backend=job.spec.backend,
        compile_options=job.spec.options,
        compile=True,
        offload="none",
        num_images=1,
        cache_dir=files.graph_cache(folder, job.spec),
    )
    tuned.copy(workload.settings, settings, job.spec.backend)
    return {
        "folder": _working_directory(),
        "settings": settings_as_json(settings),
        "batch": workload.batch,
        "keep": str(files.output(folder, job.spec)) if job.number == 1 else None,
        "exact": backend_specs.is_uncompiled(job.spec),
    }


def _working_directory() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it has been deleted
        return None


def _with_parity(results: BenchResults, folder: Path, reporter: Reporter) -> BenchResults:
    """`results` with the parity of every backend whose output and whose reference's output are there by now."""
    specs = [backend.spec for backend in results.backends]
    by_spec = {backend.spec: backend for backend in (*results.backends, *results.references)}

    def compared(backend: BackendResult) -> BackendResult:
        reference = by_spec[schedule.reference_of(backend.spec, specs)]
        outputs = [files.output(folder, one.spec) for one in (backend, reference)]
        if backend.parity or not (backend.runs and reference.runs and all(path.exists() for path in outputs)):
            return backend
        if not parity.same_inputs(backend, reference):
            reporter.warn(
                f"{backend.spec.text}: no parity, its weights or inputs are not those of {reference.spec.text}"
            )
            return backend
        return replace(backend, parity=parity.compare(*outputs))

    return replace(results, backends=tuple(map(compared, results.backends)))
