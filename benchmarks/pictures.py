"""What the scripts that time whole pictures share: arguments, an engine, medians."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import ipa_cli

HEADER = f"{'':<48} {'steps s':>8} {'it/s':>6} {'total s':>8}"


def parser(about: str | None) -> argparse.ArgumentParser:
    """Arguments for `opened` and `medians`, and the size."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", default="sdxl")
    made.add_argument("--size", type=int, default=1024)
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--weights", action="store_true")
    return made


def opened(asked: argparse.Namespace, **settings: Any) -> ipa_cli.Engine:
    """The model with its own adapter; its weights are random unless asked for."""
    more = settings if asked.weights else {**settings, "load_format": "dummy"}
    return ipa_cli.open(asked.model, adapter="own", progress=False, **more)


def medians(draw: Callable[[], Any], repeats: int) -> tuple[float, float, float]:
    """Seconds of the steps, steps a second and seconds in all, of pictures after one that is not counted."""
    draw()
    timings = [draw().timings for _ in range(repeats)]
    steps, rate, total = (statistics.median(one[key] for one in timings) for key in ("steps_s", "it_per_s", "total_s"))
    return steps, rate, total
