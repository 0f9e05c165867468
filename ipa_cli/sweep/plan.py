"""What a sweep draws: every reference, prompt, size and seed at every scale; plain data, checked before any work."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from ipa_cli.config import FIELDS
from ipa_cli.config.units import parse_picture_size, plural
from ipa_cli.errors import UsageError
from ipa_cli.images.filenames import slug

DEFAULT_FROM, DEFAULT_TO, DEFAULT_NUM = 0.0, 1.0, 5
MOST_POINTS = 10_000
PLACES = 6  # of decimals: float32, in which the graph takes the scale, still tells them apart, and names stay short
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


@dataclass(frozen=True)
class Point:
    """One picture: a row at a scale. `number` counts from 1, `file` is relative to the sweep's folder."""

    number: int
    row: Row
    scale: float
    file: str


@dataclass(frozen=True)
class Sweep:
    """The axes of a sweep; the rows and points are their cross product, the scale changing fastest."""

    scales: tuple[float, ...]
    references: tuple[str, ...]
    prompts: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    seeds: tuple[int, ...]

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        axes = product(range(len(self.references)), range(len(self.prompts)), self.sizes, self.seeds)
        return tuple(Row(n, image, prompt, *size, seed) for n, (image, prompt, size, seed) in enumerate(axes, 1))

    @cached_property
    def points(self) -> tuple[Point, ...]:
        return tuple(
            Point(n, row, scale, f"pictures/{self.stem(row)}-scale-{in_words(scale)}.png")
            for n, (row, scale) in enumerate(product(self.rows, self.scales), 1)
        )

    def stem(self, row: Row) -> str:
        """How the names of a row's files begin: its number and its reference, "row-03-cat"."""
        files = re.split(r" \+ ", labels(self.references)[row.reference])
        reference = slug("-".join(Path(file).stem for file in files))
        return f"row-{row.number:0{len(str(len(self.rows)))}}-{reference}"

    @property
    def counted(self) -> str:
        """The cross product in words: "5 scales × 3 references × 2 sizes = 30 pictures"."""
        axes = [
            (self.scales, "scale"),
            (self.references, "reference"),
            (self.prompts, "prompt"),
            (self.sizes, "size"),
            (self.seeds, "seed"),
        ]
        shown = [plural(len(axis), word) for axis, word in axes if len(axis) > 1 or word in ("scale", "reference")]
        return f"{' × '.join(shown)} = {plural(len(self.points), 'picture')}"


def make(
    scales: Sequence[float],
    references: Sequence[str],
    prompts: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    seeds: Sequence[int],
) -> Sweep:
    """Put the axes together. Raises UsageError for an entry given twice, and for more than `MOST_POINTS` points.

    `references` are names for people, which may repeat where their sources do not: see `check_references`.
    """
    for axis, flag, show in (
        (prompts, "--prompt", str),
        (sizes, "--size", lambda size: f"{size[0]}x{size[1]}"),
        (seeds, "--seed", str),
    ):
        _no_duplicates(axis, flag, show)
    points = math.prod(map(len, (scales, references, prompts, sizes, seeds)))
    if points > MOST_POINTS:
        raise UsageError(f"that makes {points} pictures; a sweep has at most {MOST_POINTS}", "split it into several")
    return Sweep(tuple(scales), tuple(references), tuple(prompts), tuple(sizes), tuple(seeds))


def make_scales(listed: str | None, first: float | None, last: float | None, number: int | None) -> tuple[float, ...]:
    """The scales, rising, from a list ("0,0.5,1") or from a range; 0 to 1 in 5 where nothing is said.

    Raises UsageError for what is no number, out of bounds, given twice, `first` not below `last`, or both ways.
    """
    if listed is None:
        return _range(
            DEFAULT_FROM if first is None else first,
            DEFAULT_TO if last is None else last,
            DEFAULT_NUM if number is None else number,
        )
    if (first, last, number) != (None, None, None):
        raise UsageError("--scales and --from, --to, --num say the same thing twice", "leave one of them out")
    words = [word.strip() for word in listed.split(",")]
    if len(words) > MOST_POINTS:
        raise UsageError(f"--scales has {len(words)} entries; a sweep has at most {MOST_POINTS}", EXAMPLE)
    scales = [_number(word, listed) for word in words]
    for scale in scales:
        _check("scale", scale, "--scales", EXAMPLE)
        if scale != round(scale, PLACES):
            raise UsageError(f"--scales {scale!r}: more than {PLACES} decimal places", EXAMPLE)
    _no_duplicates(scales, "--scales", in_words)
    return tuple(sorted(scales))


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


def in_words(scale: float) -> str:
    """A scale as people write it, and no two alike: 0, 0.25, 1."""
    return repr(scale).removesuffix(".0")


def labels(references: Sequence[str]) -> tuple[str, ...]:
    """Short names of the references, no two alike: the file name, or all of it where two would be the same."""
    names = [re.split(r"[/\\]", source.rstrip("/\\"))[-1] or source for source in references]
    names = [name if names.count(name) == 1 else source for name, source in zip(names, references, strict=True)]
    return tuple(name if names.count(name) == 1 else f"{name} ({n})" for n, name in enumerate(names, 1))


def _range(first: float, last: float, number: int) -> tuple[float, ...]:
    example = "--from 0 --to 1 --num 5"
    _check("scale", first, "--from", example)
    _check("scale", last, "--to", example)
    if not 2 <= number <= MOST_POINTS:
        raise UsageError(f"--num {number}: expected 2 to {MOST_POINTS} scales", example)
    if first >= last:
        raise UsageError(f"--from {in_words(first)} is not below --to {in_words(last)}", example)
    scales = [round(first + (last - first) * n / (number - 1), PLACES) for n in range(number)]
    _no_duplicates(scales, f"--num {number}: too many between --from and --to:", in_words)
    return tuple(scales)


def _number(word: str, listed: str) -> float:
    try:
        return float(word) + 0.0  # minus zero is zero
    except ValueError:
        what = f"'{word}' is not a number" if word else "an entry is empty"
        raise UsageError(f"--scales {listed}: {what}", EXAMPLE) from None


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
