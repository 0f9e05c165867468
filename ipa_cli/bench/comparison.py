"""A bench against an earlier one: whether they can be compared, what became slower, and what else is different."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ipa_cli.bench.metrics import METRICS, Metric
from ipa_cli.bench.results import BenchResults

TOLERANCE = 0.05  # of the older median: less is not a regression even where the spread was smaller


@dataclass(frozen=True)
class Regression:
    """A median that became worse by more than `allowed`, in the metric's unit."""

    backend: str
    metric: str
    before: float
    after: float
    allowed: float

    def __str__(self) -> str:
        metric = next(metric for metric in METRICS if metric.name == self.metric)
        numbers = f"{self.before:.{metric.digits}f} → {self.after:.{metric.digits}f} {metric.unit}"
        change = f" ({self.after / self.before - 1:+.1%})" if self.before else ""
        return f"{self.backend}: {metric.title}: {numbers}{change}"


def workload_differences(asked: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """In what the workloads of two benches differ; empty when they can be compared."""
    return _differences(asked, before["asked"])


def machine_differences(machine: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """In what the machines of two benches differ."""
    return _differences(machine, before["machine"])


def environment_differences(results: BenchResults, before: Mapping[str, Any]) -> list[str]:
    """In what machine and package versions of two benches differ."""
    found = machine_differences(results.machine, before)
    older = {entry["name"]: entry["environment"].get("versions", {}) for entry in before["backends"]}
    for backend in results.backends:
        versions, earlier = backend.environment.get("versions", {}), older.get(backend.spec.text) or {}
        if versions and earlier:
            names = sorted(versions.keys() | earlier.keys())
            found += _differences({name: versions.get(name) for name in names}, earlier)
    return list(dict.fromkeys(found))


def regressions(results: BenchResults, before: Mapping[str, Any]) -> list[Regression]:
    """Every figure that became worse by more than the spread of both benches, and by more than `TOLERANCE`."""
    older = {entry["name"]: entry["figures"] for entry in before["backends"]}
    found = []
    for backend in results.backends:
        for metric in METRICS:
            now, then = backend.figure(metric), older.get(backend.spec.text, {}).get(metric.name)
            if now is None or then is None:
                continue
            spreads = (then["most"] - then["least"], now.most - now.least)
            allowed = max(TOLERANCE * then["median"], *spreads, metric.min_change)
            if _worsening(metric, then["median"], now.median) > allowed:
                found.append(Regression(backend.spec.text, metric.name, then["median"], now.median, allowed))
    return found


def uncompared(results: BenchResults, before: Mapping[str, Any]) -> list[str]:
    """Backends measured in only one of two benches."""
    now = {backend.spec.text for backend in results.backends if backend.runs}
    then = {entry["name"] for entry in before["backends"] if entry["runs"]}
    return sorted(now ^ then)


def _worsening(metric: Metric, before: float, after: float) -> float:
    return before - after if metric.higher_is_better else after - before


def _differences(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    names = [name for name in now if now[name] != before.get(name)]
    return [f"{name} {_brief(before.get(name))} → {_brief(now[name])}" for name in names]


def _brief(value: Any) -> str:
    return "none" if value is None else str(value)
