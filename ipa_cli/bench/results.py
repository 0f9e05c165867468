"""What was measured: figures with their spread, ratios to eager, and what became slower since an older bench."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ipa_cli.bench import shapes
from ipa_cli.bench.plan import Spec
from ipa_cli.config.privacy import public
from ipa_cli.errors import IpaError
from ipa_cli.models.location import is_folder
from ipa_cli.system import inputs

FORMAT = 1
FILE_BYTES = 64_000_000
SLACK = 0.05  # of the older median: less is no news even where the spread was smaller


class Metric(NamedTuple):
    """One row of the table; `origins` are those of the runs that tell it (see `graphs.Ready`).

    `better` is more or less; `grain` is the smallest difference that `slower` speaks of.
    """

    name: str
    title: str
    unit: str
    digits: int
    key: str
    better: str = "less"
    origins: tuple[str, ...] = ("uncompiled", "compiled", "cache")
    grain: float = 0.0
    ratio: bool = False


_READY = ("uncompiled", "cache")
METRICS = (
    Metric("it_per_s", "Iteration speed", "it/s", 2, "it_per_s", "more", ratio=True),
    Metric("pictures_per_s", "Pictures", "/s", 3, "pictures_per_s", "more", ratio=True),
    Metric("e2e_s", "E2E time", "s", 2, "e2e_s", grain=0.02, ratio=True),
    Metric("beside_s", "E2E beside the steps", "s", 2, "beside_s", grain=0.02),
    Metric("peak_gib", "Max memory used", "GiB", 2, "peak_gib", origins=_READY, grain=0.05, ratio=True),
    Metric("reserved_gib", "Max memory reserved", "GiB", 2, "reserved_gib", origins=_READY, grain=0.05, ratio=True),
    Metric("warmup_run_s", "Warm-up with run", "s", 2, "warmup_s", origins=("uncompiled",), grain=0.5),
    Metric("warmup_compile_s", "Warm-up with compilation", "s", 2, "warmup_s", origins=("compiled",), grain=0.5),
    Metric("warmup_cache_s", "Warm-up with cache", "s", 2, "warmup_s", origins=("cache",), grain=0.5),
    Metric("load_s", "Ready: imports and weights", "s", 2, "load_s", origins=_READY, grain=0.5),
    Metric("open_s", "Ready: graph opened", "s", 2, "open_s", origins=("cache",), grain=0.1),
    Metric("first_step_s", "Ready: first step", "s", 2, "first_step_s", origins=_READY, grain=0.1),
    Metric("compile_peak_gib", "Max memory while compiling", "GiB", 2, "peak_gib", origins=("compiled",), grain=0.05),
)


@dataclass(frozen=True)
class Figure:
    """The median of `count` runs, and the least and most of them."""

    median: float
    least: float
    most: float
    count: int


@dataclass(frozen=True)
class Column:
    """One backend: what its processes told, and why there is no more of it, with the last lines of the one that failed.

    `parity` is what `drawn.compare` found.
    """

    spec: Spec
    runs: tuple[Mapping[str, Any], ...] = ()
    parity: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    hint: str = ""
    log: tuple[str, ...] = ()

    def figure(self, metric: Metric) -> Figure | None:
        """The metric over all runs that tell it; None when none does."""
        values = [run[metric.key] for run in self.runs if run["origin"] in metric.origins]
        values = [value for value in values if value is not None]
        if not values:
            return None
        return Figure(statistics.median(values), min(values), max(values), len(values))

    def lacks(self, metric: Metric) -> bool:
        """Whether the metric means nothing here, such as the compilation of what is never compiled."""
        if not self.runs:
            return False
        uncompiled = all(run["origin"] == "uncompiled" for run in self.runs)
        possible = {"uncompiled"} if uncompiled else {"compiled", "cache"}
        untold = all(run[metric.key] is None for run in self.runs)
        return untold or not possible & set(metric.origins)


@dataclass(frozen=True)
class Bench:
    """A bench, whole or not: `stopped` says why it ended early; `asked` is what was to be measured.

    `references` drew uncompiled in the Pythons that have no column of it: see `plan.references`.
    """

    date: str
    asked: Mapping[str, Any]
    machine: Mapping[str, Any]
    columns: tuple[Column, ...]
    baseline: str | None
    references: tuple[Column, ...] = ()
    seconds: float = 0.0
    stopped: str | None = None
    runs: int = 1  # of each backend, as asked

    def ratio(self, column: Column, metric: Metric) -> float | None:
        """How much more of the metric than eager, as a fraction: 0.845 is +84.5 %; None where either is missing."""
        base = next((other for other in self.columns if other.spec.text == self.baseline), None)
        if base is None or base is column or not metric.ratio:
            return None
        here, there = column.figure(metric), base.figure(metric)
        return here.median / there.median - 1 if here and there and there.median else None


@dataclass(frozen=True)
class Slower:
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


def to_data(bench: Bench) -> dict[str, Any]:
    """The bench as JSON keeps it: every run, and the figures made of them."""

    def figures(column: Column) -> dict[str, Any]:
        found = {metric.name: (column.figure(metric), bench.ratio(column, metric)) for metric in METRICS}
        return {name: {**asdict(figure), "ratio": ratio} if figure else None for name, (figure, ratio) in found.items()}

    def plain(column: Column) -> dict[str, Any]:
        return {
            "name": column.spec.text,
            "backend": column.spec.backend,
            "options": column.spec.options,
            "python": column.spec.python,
            "reason": column.reason,
            "hint": column.hint,
            "log": list(column.log),
            "environment": dict(column.environment),
            "figures": figures(column),
            "parity": column.parity,
            "runs": [dict(run) for run in column.runs],
        }

    data = {
        "format": FORMAT,
        "date": bench.date,
        "seconds": bench.seconds,
        "stopped": bench.stopped,
        "runs": bench.runs,
        "asked": dict(bench.asked),
        "machine": dict(bench.machine),
        "baseline": bench.baseline,
        "backends": [plain(column) for column in bench.columns],
        "references": [plain(column) for column in bench.references],
    }
    return public(data)


def measured(data: Mapping[str, Any], key: str) -> dict[Spec, Column]:
    """What `to_data` keeps of the runs of "backends" or "references"; why one failed is left out, it is tried again."""
    found = {}
    for entry in data[key]:
        python = entry["python"] and os.path.expanduser(entry["python"])  # noqa: PTH111 (a text, as it was given)
        spec = Spec(entry["name"], entry["backend"], entry["options"], python)
        found[spec] = Column(spec, tuple(entry["runs"]), entry["parity"], entry["environment"])
    return found


# What `to_data` gives, as far as it is read again.
_NUMBER = (int, float)
_COLUMN = {
    "name": str,
    "backend": str,
    "options": (str, type(None)),
    "python": (str, type(None)),
    "environment": dict,
    "parity": (dict, type(None)),
    "figures": {...: (None, {"median": _NUMBER, "least": _NUMBER, "most": _NUMBER})},
    "runs": [
        {
            "origin": str,
            "warnings": list,
            "process_s": _NUMBER,
            "compile_s": _NUMBER,
            "weights_sum": _NUMBER,
            "inputs_sum": _NUMBER,
            **{metric.key: (*_NUMBER, type(None)) for metric in METRICS},
        }
    ],
}
_ASKED = {"size": str, "batch": int, "dynamic": [str]}
_WHOLE = {"date": str, "runs": int, "asked": _ASKED, "machine": dict, "backends": [_COLUMN], "references": [_COLUMN]}


def read(path: Path) -> dict[str, Any]:
    """What `to_data` gave, from a file, or from the folder it lies in. Raises IpaError when it is no bench."""
    path = path / "results.json" if is_folder(path) else path
    hint = "name the results.json of an earlier bench"
    try:
        data = json.loads(inputs.read_bytes(path, FILE_BYTES, "a bench"))
    except inputs.MissingFile:
        raise IpaError(f"there is no file {path}", hint) from None
    except (ValueError, RecursionError) as error:
        raise IpaError(f"{path} cannot be read: {error}", hint) from None
    if isinstance(data, dict) and data.get("command") == "bench":  # what `ipa bench --json` printed
        data = data.get("data")
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise IpaError(f"{path} is no bench of this ipa", hint)
    if odd := shapes.first_odd(data, _WHOLE):
        raise IpaError(f"{path} is no whole bench: {odd} is missing, or of another kind", hint)
    return data


def unlike(asked: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """In what two benches measure something else, in words: none when they can be compared."""
    older = before["asked"]
    names = [name for name in asked if asked[name] != older.get(name)]
    return [f"{name} {_brief(older.get(name))} → {_brief(asked[name])}" for name in names]


def moved(machine: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """What of the machine is another than in an older bench, in words."""
    older = before["machine"]
    names = [name for name in machine if machine[name] != older.get(name)]
    return [f"{name} {_brief(older.get(name))} → {_brief(machine[name])}" for name in names]


def changes(bench: Bench, before: Mapping[str, Any]) -> list[str]:
    """What of machine and versions is another than in an older bench, in words."""
    found = moved(bench.machine, before)
    older = {entry["name"]: entry["environment"].get("versions", {}) for entry in before["backends"]}
    for column in bench.columns:
        versions, then = column.environment.get("versions", {}), older.get(column.spec.text) or {}
        if versions and then:
            for name in sorted(versions.keys() | then.keys()):
                if versions.get(name) != then.get(name):
                    found.append(f"{name} {_brief(then.get(name))} → {_brief(versions.get(name))}")
    return list(dict.fromkeys(found))


def slower(bench: Bench, before: Mapping[str, Any]) -> list[Slower]:
    """Every figure that became worse by more than the spread of both benches, and by more than `SLACK`."""
    older = {entry["name"]: entry["figures"] for entry in before["backends"]}
    found = []
    for column in bench.columns:
        for metric in METRICS:
            now, then = column.figure(metric), older.get(column.spec.text, {}).get(metric.name)
            if now is None or then is None:
                continue
            allowed = max(SLACK * then["median"], then["most"] - then["least"], now.most - now.least, metric.grain)
            worse = then["median"] - now.median if metric.better == "more" else now.median - then["median"]
            if worse > allowed:
                found.append(Slower(column.spec.text, metric.name, then["median"], now.median, allowed))
    return found


def uncompared(bench: Bench, before: Mapping[str, Any]) -> list[str]:
    """Backends measured in one of two benches alone."""
    now = {column.spec.text for column in bench.columns if column.runs}
    then = {entry["name"] for entry in before["backends"] if entry["runs"]}
    return sorted(now ^ then)


def _brief(value: Any) -> str:
    return "none" if value is None else str(value)
