"""The plan of a sweep: every reference, prompt, size and seed at every scale; plain data, checked before any work."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from ipa_cli.config import FIELDS, controls
from ipa_cli.config.checks import Check
from ipa_cli.config.loras import WEIGHT
from ipa_cli.config.units import parse_picture_size, plural
from ipa_cli.errors import UsageError
from ipa_cli.images.filenames import slug

DEFAULT_FROM, DEFAULT_TO, DEFAULT_NUM = 0.0, 1.0, 5
MAX_POINTS = 10_000
DECIMALS = 6  # float32, in which the graph takes the scale, still distinguishes them, and file names stay short
EXAMPLE = "--scales 0,0.25,0.5,0.75,1"


@dataclass(frozen=True)
class Row:
    """One conditioning, drawn at every scale. `number` counts from 1, `reference` and `prompt` from 0."""

    number: int
    reference: int
    prompt: int
    width: int
    height: int
    seed: int
    lora_weight: float = 1.0
    mode: str | None = None  # None: as the settings say
    control_scale: float = 1.0


@dataclass(frozen=True)
class Point:
    """One picture: a row at a scale. `number` counts from 1, `file` is relative to the sweep's folder."""

    number: int
    row: Row
    scale: float
    file: str


@dataclass(frozen=True)
class Sweep:
    """The axes of a sweep; the rows and points are their cross product, the scale changing fastest.

    `lora_weights` multiply the weights of all LoRAs, `control_scales` the scales of all ControlNets.
    """

    scales: tuple[float, ...]
    references: tuple[str, ...]
    prompts: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    seeds: tuple[int, ...]
    lora_weights: tuple[float, ...] = (1.0,)
    modes: tuple[str | None, ...] = (None,)
    control_scales: tuple[float, ...] = (1.0,)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        numbers = range(len(self.references)), range(len(self.prompts))
        axes = product(*numbers, self.sizes, self.seeds, self.lora_weights, self.modes, self.control_scales)
        return tuple(
            Row(n, image, text, *size, seed, lora, mode, control)
            for n, (image, text, size, seed, lora, mode, control) in enumerate(axes, 1)
        )

    @cached_property
    def points(self) -> tuple[Point, ...]:
        return tuple(
            Point(n, row, scale, f"pictures/{self.stem(row)}-scale-{format_scale(scale)}.png")
            for n, (row, scale) in enumerate(product(self.rows, self.scales), 1)
        )

    def stem(self, row: Row) -> str:
        """How the names of a row's files begin: its number and its reference, "row-03-cat"."""
        files = re.split(r" \+ ", labels(self.references)[row.reference])
        reference = slug("-".join(Path(file).stem for file in files))
        return f"row-{row.number:0{len(str(len(self.rows)))}}-{reference}"

    def own_values(self, row: Row) -> dict[str, Any]:
        """What else tells a row from others beside reference, prompt, size and seed, by name."""
        axes = {"lora_weight": self.lora_weights, "mode": self.modes, "control_scale": self.control_scales}
        return {name: getattr(row, name) for name, axis in axes.items() if len(axis) > 1}

    def facts(self, row: Row) -> list[str]:
        """`own_values` for people: "LoRA 0.5", "ease-in", "control 0.7"."""
        words = {"lora_weight": "LoRA ", "control_scale": "control "}
        return [
            f"{words.get(name, '')}{format_scale(value) if name in words else value}"
            for name, value in self.own_values(row).items()
        ]

    @property
    def summary(self) -> str:
        """The cross product: "5 scales × 3 references × 2 sizes = 30 pictures"."""
        axes = [
            (self.scales, "scale"),
            (self.references, "reference"),
            (self.prompts, "prompt"),
            (self.sizes, "size"),
            (self.seeds, "seed"),
            (self.lora_weights, "LoRA weight"),
            (self.modes, "mode"),
            (self.control_scales, "control scale"),
        ]
        shown = [plural(len(axis), word) for axis, word in axes if len(axis) > 1 or word in ("scale", "reference")]
        return f"{' × '.join(shown)} = {plural(len(self.points), 'picture')}"


def make(
    scales: Sequence[float],
    references: Sequence[str],
    prompts: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    seeds: Sequence[int],
    lora_weights: Sequence[float] = (1.0,),
    modes: Sequence[str | None] = (None,),
    control_scales: Sequence[float] = (1.0,),
) -> Sweep:
    """Put the axes together. Raises UsageError for an entry given twice, and for more than `MAX_POINTS` points.

    `references` are display names, which may repeat where their sources do not: see `check_references`.
    """
    for axis, flag, show in (
        (prompts, "--prompt", str),
        (sizes, "--size", lambda size: f"{size[0]}x{size[1]}"),
        (seeds, "--seed", str),
        (lora_weights, "--lora-weights", format_scale),
        (modes, "--ip-mode", str),
        (control_scales, "--control-scales", format_scale),
    ):
        _no_duplicates(axis, flag, show)
    varied = tuple(scales), tuple(references), tuple(prompts), tuple(sizes), tuple(seeds)
    sweep = Sweep(*varied, tuple(lora_weights), tuple(modes), tuple(control_scales))
    points = math.prod(map(len, (*varied, lora_weights, modes, control_scales)))
    if points > MAX_POINTS:
        raise UsageError(f"that makes {points} pictures; a sweep has at most {MAX_POINTS}", "split it into several")
    return sweep


def make_scales(listed: str | None, first: float | None, last: float | None, number: int | None) -> tuple[float, ...]:
    """The scales, rising, from a list ("0,0.5,1") or from a range; 0 to 1 in 5 by default.

    Raises UsageError for what is not a number, out of bounds or given twice, where `first` is not below `last`,
    and for both a list and a range.
    """
    if listed is None:
        return _range(
            DEFAULT_FROM if first is None else first,
            DEFAULT_TO if last is None else last,
            DEFAULT_NUM if number is None else number,
        )
    if (first, last, number) != (None, None, None):
        raise UsageError("--scales cannot be combined with --from, --to or --num", "give a list or a range")
    entries = [entry.strip() for entry in listed.split(",")]
    if len(entries) > MAX_POINTS:
        raise UsageError(f"--scales has {len(entries)} entries; a sweep has at most {MAX_POINTS}", EXAMPLE)
    scales = [_number(entry, listed) for entry in entries]
    for scale in scales:
        _check("scale", scale, "--scales", EXAMPLE)
        if scale != round(scale, DECIMALS):
            raise UsageError(f"--scales {scale!r}: more than {DECIMALS} decimal places", EXAMPLE)
    _no_duplicates(scales, "--scales", format_scale)
    return tuple(sorted(scales))


def make_lora_weights(listed: str | None) -> tuple[float, ...]:
    """The numbers of "0,0.5,1", which multiply the weights of all LoRAs; 1 alone by default. Raises UsageError."""
    return _factors(listed, "--lora-weights", WEIGHT)


def make_control_scales(listed: str | None) -> tuple[float, ...]:
    """The numbers of "0,0.5,1", which multiply the scales of all ControlNets; 1 alone by default. Raises UsageError."""
    return _factors(listed, "--control-scales", controls.CHECKS["scale"])


def _factors(listed: str | None, flag: str, check: Check) -> tuple[float, ...]:
    if listed is None:
        return (1.0,)
    example = f"{flag} 0,0.5,1"
    found = [_number(entry.strip(), listed, flag, example) for entry in listed.split(",")]
    for factor in found:
        if problem := check(factor):
            raise UsageError(f"{flag} {listed}: {problem}", example)
        if factor != round(factor, DECIMALS):
            raise UsageError(f"{flag} {factor!r}: more than {DECIMALS} decimal places", example)
    return tuple(found)


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "1024x768". Raises UsageError."""
    example = "--size 1024x768"
    width, height = parse_picture_size(text)
    _check("width", width, f"--size {text}: width", example)
    _check("height", height, f"--size {text}: height", example)
    return width, height


def check_references(sources: Sequence[str], flag: str) -> None:
    """Raises UsageError for a picture or file that is given twice."""
    _no_duplicates(sources, flag, str)


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises UsageError for a seed that is out of range."""
    for seed in seeds:
        _check("seed", seed, "--seed", "--seed 42")


def format_scale(scale: float) -> str:
    """A scale as people write it, different for different scales: 0, 0.25, 1."""
    return repr(scale).removesuffix(".0")


def labels(references: Sequence[str]) -> tuple[str, ...]:
    """Short, distinct names of the references: the file name, or the whole source where two would be the same."""
    names = [re.split(r"[/\\]", source.rstrip("/\\"))[-1] or source for source in references]
    names = [name if names.count(name) == 1 else source for name, source in zip(names, references, strict=True)]
    return tuple(name if names.count(name) == 1 else f"{name} ({n})" for n, name in enumerate(names, 1))


def _range(first: float, last: float, number: int) -> tuple[float, ...]:
    example = "--from 0 --to 1 --num 5"
    _check("scale", first, "--from", example)
    _check("scale", last, "--to", example)
    if not 2 <= number <= MAX_POINTS:
        raise UsageError(f"--num {number}: expected 2 to {MAX_POINTS} scales", example)
    if first >= last:
        raise UsageError(f"--from {format_scale(first)} is not below --to {format_scale(last)}", example)
    scales = [round(first + (last - first) * n / (number - 1), DECIMALS) for n in range(number)]
    _no_duplicates(scales, f"--num {number}: too many between --from and --to:", format_scale)
    return tuple(scales)


def _number(entry: str, listed: str, flag: str = "--scales", example: str = EXAMPLE) -> float:
    try:
        return float(entry) + 0.0  # minus zero is zero
    except ValueError:
        what = f"'{entry}' is not a number" if entry else "an entry is empty"
        raise UsageError(f"{flag} {listed}: {what}", example) from None


def _check(name: str, value: Any, where: str, example: str) -> None:
    problem = FIELDS[name].metadata["check"](value)
    if problem:
        raise UsageError(f"{where} {value}: {problem}", example)


def _no_duplicates(axis: Sequence[Any], flag: str, show: Callable[[Any], str]) -> None:
    seen = set()
    for entry in axis:
        if entry in seen:
            raise UsageError(f"{flag} {show(entry)} is given twice", "leave one of them out")
        seen.add(entry)
