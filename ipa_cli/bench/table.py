"""A bench as the table of the seed, Metric | eager | inductor (+84.5%) | …, for terminals and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ipa_cli.bench.results import METRICS, Bench, Column, Metric
from ipa_cli.config.units import plural
from ipa_cli.result import Table

NOT_MEASURED = "not measured"
ALIKE = 1.25  # how much faster than the slowest the fastest run of a backend may be on a quiet machine
MEANINGLESS = "–"


def make(bench: Bench) -> Table:
    """Median, ratio to eager, and spread where there were several runs."""
    rows = [
        (metric.title, *(_cell(bench, column, metric) for column in bench.columns))
        for metric in METRICS
        if not all(column.lacks(metric) for column in bench.columns)
    ]
    rows += [
        (title, *(_parity(column, key) for column in bench.columns))
        for title, key in (
            ("UNet error vs eager", "relative_error"),
            ("UNet error vs fp32", "fp32_error"),
            ("Eager's own error vs fp32", "eager_fp32_error"),
            ("Picture vs eager (PSNR)", "psnr_db"),
        )
    ]
    rows = [row for row in rows if set(row[1:]) != {MEANINGLESS}]
    return Table(("Metric", *(column.spec.text for column in bench.columns)), tuple(rows))


def heading(bench: Bench) -> str:
    """What was measured, and where."""
    asked, machine = bench.asked, bench.machine
    first = next((column.environment for column in bench.columns if column.environment), {})
    steps = plural(first["steps"], "step") if first else ""
    size = f"{first['width']}x{first['height']}, {steps}, {first['dtype']}" if first else asked["size"]
    batch = f", {asked['batch']} pictures at once" if asked.get("batch", 1) > 1 else ""
    weights = " with seeded random weights" if first.get("dummy") else ""
    where = machine["gpu"] if str(first.get("device", "cpu")) != "cpu" and machine["gpu"] else machine["cpu"]
    return f"{asked['model']}{weights}, {size}{batch}, on {where} ({machine['cores']} cores), {bench.date[:10]}"


def remarks(bench: Bench) -> tuple[str, ...]:
    """What the cells cannot hold: reasons, versions, how to read them."""
    lines = [
        f"{column.spec.text}: {column.reason}{f' ({column.hint})' if column.hint else ''}"
        for column in bench.columns
        if column.reason
    ]
    lines += _disagreeing(bench)
    versions: dict[str, list[str]] = {}
    for column in bench.columns:
        if column.environment:
            versions.setdefault(_versions(column.environment["versions"]), []).append(column.spec.text)
    lines += [f"{', '.join(names)}: {text}" for text, names in versions.items()]
    runs = max((len(column.runs) for column in bench.columns), default=0)
    if runs > 1:
        lines.append(f"median of up to {runs} runs, each a process of its own, in turn; [least–most]")
    if runs and bench.baseline:
        lines.append(f"percentages: against {bench.baseline}")
    if any(column.parity for column in bench.columns):
        lines.append(
            "errors and PSNR: against eager without CUDA graph in the same Python, with the same weights and inputs"
        )
    lines += [
        f"eager without CUDA graph in {column.spec.python or 'this Python'}: "
        + (f"{column.runs[0]['it_per_s']:.2f} it/s" if column.runs else column.reason or NOT_MEASURED)
        for column in bench.references
    ]
    lines += _weights(bench)
    warnings = {text: column for column in bench.columns for run in column.runs for text in run["warnings"]}
    lines += [f"{column.spec.text}: {text}" for text, column in warnings.items()]
    if bench.stopped:
        lines.append(f"{bench.stopped} after {bench.seconds:.0f} s: what is missing was not measured")
    return tuple(lines)


def markdown(bench: Bench) -> str:
    """The whole table as Markdown."""
    table = make(bench)

    def row(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + " --- |" * len(table.columns)
    remarks_ = [f"- {line}" for line in remarks(bench)]
    lines = (heading(bench), "", row(table.columns), rule, *map(row, table.rows), "", *remarks_)
    return "\n".join(lines) + "\n"


def _cell(bench: Bench, column: Column, metric: Metric) -> str:
    figure = column.figure(metric)
    if figure is None:
        return MEANINGLESS if column.lacks(metric) else NOT_MEASURED
    text = f"{figure.median:.{metric.digits}f} {metric.unit}"
    ratio = bench.ratio(column, metric)
    if ratio is not None:
        text += f" ({ratio:+.1%})"
    if figure.count > 1:
        text += f" [{figure.least:.{metric.digits}f}–{figure.most:.{metric.digits}f}]"
    return text


def _parity(column: Column, key: str) -> str:
    found = column.parity
    if key.endswith("fp32_error") and column.environment.get("dtype") == "float32":
        return MEANINGLESS
    if found is None:
        return NOT_MEASURED
    if key == "psnr_db":
        return "identical" if found["identical"] else f"{found['psnr_db']:.1f} dB"
    if found[key] is None:
        return NOT_MEASURED
    return f"{found[key]:.1e}" if found[key] else "0"


def _disagreeing(bench: Bench) -> list[str]:
    """Backends whose runs are too far apart for a median, or a percentage of it, to mean much."""
    speed = METRICS[0]
    figures = [(column.spec.text, column.figure(speed)) for column in bench.columns]
    return [
        f"{name}: its runs differ, from {found.least:.2f} to {found.most:.2f} {speed.unit}:"
        " something else was at work, measure again"
        for name, found in figures
        if found is not None and found.most > ALIKE * found.least
    ]


def _weights(bench: Bench) -> list[str]:
    """Whether all columns drew with the same weights, as far as their sum tells; a word only where they did not."""
    sums = {column.spec.text: column.runs[0]["weights_sum"] for column in bench.columns if column.runs}
    if not sums:
        return []
    first, usual = next(iter(sums.items()))
    others = [name for name, found in sums.items() if not math.isclose(found, usual, rel_tol=1e-5)]
    return [f"{', '.join(others)}: other random numbers as weights than {first}"] if others else []


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
