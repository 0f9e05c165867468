"""What is measured: the metrics of a bench, one row of its table each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Origin = Literal["uncompiled", "compiled", "cache"]
WITHOUT_COMPILING: tuple[Origin, ...] = ("uncompiled", "cache")


@dataclass(frozen=True)
class Metric:
    """`key` names the value in the figures of a run, `name` the median of those runs whose graph has one of `origins`.

    A difference below `min_change`, in `unit`, is never a regression. `has_ratio`: whether the table compares it with
    the baseline.
    """

    name: str
    title: str
    unit: str
    digits: int
    key: str
    origins: tuple[Origin, ...] = ("uncompiled", "compiled", "cache")
    min_change: float = 0.0
    higher_is_better: bool = False
    has_ratio: bool = False


@dataclass(frozen=True)
class Figure:
    """The median of `count` runs, and the least and most of them."""

    median: float
    least: float
    most: float
    count: int


SPEED = Metric("it_per_s", "Iteration speed", "it/s", 2, "it_per_s", higher_is_better=True, has_ratio=True)
METRICS = (
    SPEED,
    Metric("pictures_per_s", "Pictures", "/s", 3, "pictures_per_s", higher_is_better=True, has_ratio=True),
    Metric("e2e_s", "E2E time", "s", 2, "e2e_s", min_change=0.02, has_ratio=True),
    Metric("beside_s", "E2E beside the steps", "s", 2, "beside_s", min_change=0.02),
    Metric("peak_gib", "Max memory used", "GiB", 2, "peak_gib", WITHOUT_COMPILING, 0.05, has_ratio=True),
    Metric("reserved_gib", "Max memory reserved", "GiB", 2, "reserved_gib", WITHOUT_COMPILING, 0.05, has_ratio=True),
    Metric("warmup_run_s", "Warm-up with run", "s", 2, "warmup_s", ("uncompiled",), 0.5),
    Metric("warmup_compile_s", "Warm-up with compilation", "s", 2, "warmup_s", ("compiled",), 0.5),
    Metric("warmup_cache_s", "Warm-up with cache", "s", 2, "warmup_s", ("cache",), 0.5),
    Metric("load_s", "Ready: imports and weights", "s", 2, "load_s", WITHOUT_COMPILING, 0.5),
    Metric("open_s", "Ready: graph opened", "s", 2, "open_s", ("cache",), 0.1),
    Metric("first_step_s", "Ready: first step", "s", 2, "first_step_s", WITHOUT_COMPILING, 0.1),
    Metric("compile_peak_gib", "Max memory while compiling", "GiB", 2, "peak_gib", ("compiled",), 0.05),
)
