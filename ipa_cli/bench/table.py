"""A bench as a table, Metric | eager | inductor (+84.5%) | …, for terminals and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ipa_cli.bench.metrics import METRICS, SPEED, Metric
from ipa_cli.bench.results import BackendResult, BenchResults
from ipa_cli.config.units import plural, rate
from ipa_cli.result import Table

NOT_MEASURED = "not measured"
NOT_APPLICABLE = "–"
MAX_SPREAD = 1.25  # of the fastest to the slowest run of a backend on a quiet machine


def make(results: BenchResults) -> Table:
    """Median, ratio to eager, and spread where there were several runs."""
    rows = [
        (metric.title, *(_cell(results, backend, metric) for backend in results.backends))
        for metric in METRICS
        if any(backend.is_applicable(metric) for backend in results.backends)
    ]
    rows += [
        (title, *(_parity(backend, key) for backend in results.backends))
        for title, key in (
            ("UNet error vs eager", "relative_error"),
            ("UNet error vs fp32", "fp32_error"),
            ("Eager's own error vs fp32", "eager_fp32_error"),
            ("Picture vs eager (PSNR)", "psnr_db"),
        )
    ]
    rows = [row for row in rows if set(row[1:]) != {NOT_APPLICABLE}]
    return Table(("Metric", *(backend.spec.text for backend in results.backends)), tuple(rows))


def heading(results: BenchResults) -> str:
    """What was measured, and where."""
    asked, machine = results.asked, results.machine
    first = next((backend.environment for backend in results.backends if backend.environment), {})
    steps = plural(first["steps"], "step") if first else ""
    cached = "" if asked.get("step_cache") in (None, "none") else f" with --step-cache {asked['step_cache']}"
    size = f"{first['width']}x{first['height']}, {steps}{cached}, {first['dtype']}" if first else asked["size"]
    batch = f", {asked['batch']} pictures at once" if asked.get("batch", 1) > 1 else ""
    weights = " with seeded random weights" if first.get("dummy") else ""
    where = machine["gpu"] if str(first.get("device", "cpu")) != "cpu" and machine["gpu"] else machine["cpu"]
    return f"{asked['model']}{weights}, {size}{batch}, on {where} ({machine['cores']} cores), {results.date[:10]}"


def notes(results: BenchResults) -> tuple[str, ...]:
    """What has no place in the cells: reasons, versions, how to read them."""
    lines = [
        f"{backend.spec.text}: {backend.reason}{f' ({backend.hint})' if backend.hint else ''}"
        for backend in results.backends
        if backend.reason
    ]
    lines += _differing_runs(results)
    versions: dict[str, list[str]] = {}
    for backend in results.backends:
        if backend.environment:
            versions.setdefault(_versions(backend.environment["versions"]), []).append(backend.spec.text)
    lines += [f"{', '.join(names)}: {text}" for text, names in versions.items()]
    runs = max((len(backend.runs) for backend in results.backends), default=0)
    if runs > 1:
        lines.append(f"median of up to {runs} runs, each a process of its own, in turn; [least–most]")
    if runs and results.baseline:
        lines.append(f"percentages: against {results.baseline}")
    if any(backend.parity for backend in results.backends):
        lines.append(
            "errors and PSNR: against eager without CUDA graph in the same Python, with the same weights and inputs"
        )
    lines += [
        f"eager without CUDA graph in {backend.spec.python or 'this Python'}: "
        + (rate(backend.runs[0]["it_per_s"]) if backend.runs else backend.reason or NOT_MEASURED)
        for backend in results.references
    ]
    lines += _differing_weights(results)
    warnings = {text: backend for backend in results.backends for run in backend.runs for text in run["warnings"]}
    lines += [f"{backend.spec.text}: {text}" for text, backend in warnings.items()]
    if results.stopped:
        lines.append(f"{results.stopped} after {results.seconds:.0f} s: what is missing was not measured")
    return tuple(lines)


def markdown(results: BenchResults) -> str:
    """The whole table as Markdown."""
    table = make(results)

    def row(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + " --- |" * len(table.columns)
    listed = [f"- {line}" for line in notes(results)]
    lines = (heading(results), "", row(table.columns), rule, *map(row, table.rows), "", *listed)
    return "\n".join(lines) + "\n"


def _cell(results: BenchResults, backend: BackendResult, metric: Metric) -> str:
    figure = backend.figure(metric)
    if figure is None:
        return NOT_MEASURED if backend.is_applicable(metric) else NOT_APPLICABLE
    text = f"{figure.median:.{metric.digits}f} {metric.unit}"
    ratio = results.ratio(backend, metric)
    if ratio is not None:
        text += f" ({ratio:+.1%})"
    if figure.count > 1:
        text += f" [{figure.least:.{metric.digits}f}–{figure.most:.{metric.digits}f}]"
    return text


def _parity(backend: BackendResult, key: str) -> str:
    found = backend.parity
    if key.endswith("fp32_error") and backend.environment.get("dtype") == "float32":
        return NOT_APPLICABLE
    if found is None:
        return NOT_MEASURED
    if key == "psnr_db":
        return "identical" if found["identical"] else f"{found['psnr_db']:.1f} dB"
    if found[key] is None:
        return NOT_MEASURED
    return f"{found[key]:.1e}" if found[key] else "0"


def _differing_runs(results: BenchResults) -> list[str]:
    """Backends whose runs are too far apart for a median, or a percentage of it, to mean much."""
    figures = [(backend.spec.text, backend.figure(SPEED)) for backend in results.backends]
    return [
        f"{name}: its runs differ, from {found.least:.2f} to {found.most:.2f} {SPEED.unit}:"
        " other programs were running, measure again"
        for name, found in figures
        if found is not None and found.most > MAX_SPREAD * found.least
    ]


def _differing_weights(results: BenchResults) -> list[str]:
    """Backends that drew with other weights than the first, as far as their sum tells."""
    sums = {backend.spec.text: backend.runs[0]["weights_sum"] for backend in results.backends if backend.runs}
    if not sums:
        return []
    first, usual = next(iter(sums.items()))
    others = [name for name, found in sums.items() if not math.isclose(found, usual, rel_tol=1e-5)]
    return [f"{', '.join(others)}: other random weights than {first}"] if others else []


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
