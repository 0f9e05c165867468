"""What was measured: the runs of every backend, their medians, and ratios to the baseline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ipa_cli.bench.metrics import Figure, Metric
from ipa_cli.bench.specs import BackendSpec


@dataclass(frozen=True)
class BackendResult:
    """The runs of one backend, and why there are no more, with the last lines of the process that failed.

    `parity` is what `parity.compare` found.
    """

    spec: BackendSpec
    runs: tuple[Mapping[str, Any], ...] = ()
    parity: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    hint: str = ""
    log: tuple[str, ...] = ()

    def figure(self, metric: Metric) -> Figure | None:
        """The metric over all runs that have it; None when none has."""
        values = [run[metric.key] for run in self.runs if run["origin"] in metric.origins]
        values = [value for value in values if value is not None]
        if not values:
            return None
        return Figure(statistics.median(values), min(values), max(values), len(values))

    def is_applicable(self, metric: Metric) -> bool:
        """Whether the metric means anything here, as compile times do not where nothing is compiled."""
        if not self.runs:
            return True
        uncompiled = all(run["origin"] == "uncompiled" for run in self.runs)
        possible = {"uncompiled"} if uncompiled else {"compiled", "cache"}
        has_values = any(run[metric.key] is not None for run in self.runs)
        return has_values and bool(possible & set(metric.origins))


@dataclass(frozen=True)
class BenchResults:
    """A bench, complete or not: `stopped` says why it ended early; `asked` is the workload (see `run.describe`).

    `references` drew uncompiled in the Pythons of which `backends` has no uncompiled one: see `schedule.references`.
    """

    date: str
    asked: Mapping[str, Any]
    machine: Mapping[str, Any]
    backends: tuple[BackendResult, ...]
    baseline: str | None
    references: tuple[BackendResult, ...] = ()
    seconds: float = 0.0
    stopped: str | None = None
    runs: int = 1  # of each backend, as asked

    def ratio(self, backend: BackendResult, metric: Metric) -> float | None:
        """The metric relative to the baseline's, minus 1: 0.845 is +84.5 %; None where either is missing."""
        base = next((other for other in self.backends if other.spec.text == self.baseline), None)
        if base is None or base is backend or not metric.has_ratio:
            return None
        value, reference = backend.figure(metric), base.figure(metric)
        return value.median / reference.median - 1 if value and reference and reference.median else None
