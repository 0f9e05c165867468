"""What of a bench is left to do, and about how long it takes."""

from __future__ import annotations

from collections.abc import Sequence

from ipa_cli.bench.results import BenchResults
from ipa_cli.bench.schedule import Job
from ipa_cli.bench.specs import BackendSpec


def is_measured(results: BenchResults, job: Job) -> bool:
    """Whether the run of this number is there already."""
    backends = results.references if job.kind == "reference" else results.backends
    return any(backend.spec == job.spec and len(backend.runs) >= job.number for backend in backends)


def cannot_run(results: BenchResults, spec: BackendSpec) -> bool:
    """Whether the backend's first process failed: the others would too."""
    return any(backend.reason and not backend.runs for backend in results.backends if backend.spec == spec)


def expected_seconds(results: BenchResults, spec: BackendSpec) -> float | None:
    """About how long the next process of a backend takes: what its last one took without compiling."""
    runs = next((backend.runs for backend in results.backends if backend.spec == spec), ())
    return runs[-1]["process_s"] - runs[-1]["compile_s"] if runs else None


def time_left(results: BenchResults, todo: Sequence[Job]) -> str:
    """ ", about 30 s left" for the jobs to do; empty as long as it is not known."""
    expected = [expected_seconds(results, job.spec) for job in todo if not cannot_run(results, job.spec)]
    if not expected or None in expected:
        return ""
    seconds = sum(filter(None, expected))
    return f", about {seconds:.0f} s left" if seconds < 90 else f", about {seconds / 60:.0f} min left"
