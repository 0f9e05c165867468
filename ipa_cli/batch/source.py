"""Where jobs come from: a JSONL or CSV file, read as a stream, a JSON list, or a folder of references with prompts."""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ipa_cli.batch import jobs
from ipa_cli.batch.jobs import Fence, Job
from ipa_cli.config import ConfigError, expanded
from ipa_cli.config.places import exists
from ipa_cli.config.units import plural
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.images import reference
from ipa_cli.system import inputs

LINE_BYTES = 1_000_000
LIST_BYTES = 50_000_000  # of a JSON list, which is read at once
MOST_JOBS = 100_000_000
SHOWN = 1000  # jobs after which their count is shown
MOST_DIGITS = 100  # of a whole number in JSON
WHAT = "a file of jobs"
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Digest:
    """The content of a source: so many bytes, and their SHA-256."""

    size: int
    sha256: str


class Source(Protocol):
    """Jobs that can be read any number of times."""

    @property
    def name(self) -> str:
        """As it was named."""

    def jobs(self) -> Iterator[Job]:
        """The jobs in their order. Raises ConfigError for one that is not as it must be."""

    def digest(self, size: int | None = None) -> Digest:
        """What the source holds, or its jobs that begin in the first `size` bytes: equal digests mean equal jobs."""


@dataclass(frozen=True)
class Listed:
    """A JSONL or CSV file, or a JSON list of jobs."""

    path: Path
    fence: Fence

    @property
    def name(self) -> str:
        return str(self.path)

    def jobs(self) -> Iterator[Job]:
        """A job for each object of a list, or line that is not empty.

        The kind of file is that of its name, else of its first character.
        """
        if self.path.suffix.lower() == ".csv":
            return self._rows()
        if (several := self._list()) is not None:
            return (
                jobs.of_mapping(number, said, f"{self.path}, job {number}", self.fence)
                for number, said in enumerate(several, 1)
            )
        if self.path.suffix.lower() in JSON_SUFFIXES:
            return self._objects()
        first = next((line for line in self._lines() if line.strip()), "")
        return self._objects() if first.lstrip().startswith("{") else self._rows()

    def digest(self, size: int | None = None) -> Digest:
        found, count, last = hashlib.sha256(), 0, b"\n"
        several = self._list()  # as lines, so that jobs may be added to it too
        lines = None if several is None else (json.dumps(said).encode() + b"\n" for said in several)
        for block in inputs.blocks(self.path, WHAT) if lines is None else lines:
            part = block if size is None else block[: size - count]
            more = block[len(part) :]
            if more and (part or last)[-1:] not in (b"\n", b"\r"):
                part += more.splitlines()[0]  # of a line that had no end, and has grown
            found.update(part)
            count, last = count + len(part), part or last
            if more or (count == size and last.endswith((b"\n", b"\r"))):
                break
        return Digest(count, found.hexdigest())

    def _list(self) -> list[Any] | None:
        """The jobs of a file that is a JSON list, as they are there; None for any other file."""
        blocks = inputs.blocks(self.path, WHAT)
        data = next(blocks, b"").removeprefix(codecs.BOM_UTF8)
        if self.path.suffix.lower() == ".csv" or not data.lstrip().startswith(b"["):
            return None
        for block in blocks:
            data += block
            if len(data) > LIST_BYTES:
                wanted = f"a file of any size has one object on each line: {jobs.EXAMPLE}"
                raise ConfigError(f"{self.path}: a JSON list of more than {LIST_BYTES / 1e6:g} MB", wanted)
        try:
            found = _parsed(data.decode(), str(self.path))
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.path}: not UTF-8 text", "save it as UTF-8") from error
        assert isinstance(found, list)  # JSON that begins with a bracket
        return found

    def _lines(self) -> Iterator[str]:
        for number, line in enumerate(inputs.lines(self.path, LINE_BYTES, WHAT), 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if "\0" in text:
                    raise ValueError
            except ValueError as error:  # Excel's workbooks and UTF-16, too
                hint = 'save it as JSONL, or as CSV in UTF-8 (in Excel "CSV UTF-8")'
                raise ConfigError(f"{self.path}, line {number}: not UTF-8 text", hint) from error
            yield text

    def _objects(self) -> Iterator[Job]:
        count = 0
        for number, line in enumerate(self._lines(), 1):
            if line.strip():
                count += 1
                where = f"{self.path}, line {number}"
                yield jobs.of_mapping(count, _parsed(line, where), where, self.fence)

    def _rows(self) -> Iterator[Job]:
        delimiter = self._delimiter()
        reader = csv.reader(self._lines(), strict=True, delimiter=delimiter)
        columns: list[str] = []
        count = 0
        try:
            for cells in reader:
                where = f"{self.path}, line {reader.line_num}"
                while len(cells) > len(columns) and not cells[-1].strip():
                    cells.pop()  # spreadsheets end rows with empty cells
                if not any(map(str.strip, cells)):
                    continue
                if not columns:
                    columns = list(map(jobs.column, cells))
                    jobs.check_columns(columns, where)
                    continue
                if len(cells) != len(columns):
                    raise ConfigError(
                        f"{where}: {plural(len(cells), 'cell')} for {plural(len(columns), 'column')}",
                        "put text with commas into quotes",
                    )
                count += 1
                row = dict(zip(columns, cells, strict=True))
                yield jobs.of_row(count, row, where, self.fence, decimal_comma=delimiter != ",")
        except csv.Error as error:
            hint = "quote text with commas"
            if "new-line" in str(error):  # "CSV (Macintosh)"
                error, hint = csv.Error("its lines end in carriage returns alone"), "save it as CSV in UTF-8"
            raise ConfigError(f"{self.path}, line {reader.line_num}: not CSV: {error}", hint) from error

    def _delimiter(self) -> str:
        """What is between the names in the first line: a comma, semicolon or tab, none of which a name has."""
        first = next((line for line in self._lines() if line.strip()), "")
        return max(",;\t", key=first.count)


def _parsed(line: str, where: str) -> Any:
    def whole(digits: str) -> int:
        if len(digits) > MOST_DIGITS:
            raise ValueError(f"a number of {len(digits)} digits")
        return int(digits)

    def unknown(name: str) -> Any:
        raise ValueError(f"{name} is not a number of JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name is there twice")
        return found

    try:
        return json.loads(line.rstrip(), parse_int=whole, parse_constant=unknown, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, " if error.lineno > 1 else ""
        why = f"{error.msg} at {place}character {error.colno}"
    except RecursionError:
        why = "it is nested too deeply"
    except ValueError as error:
        why = str(error)
    hint = jobs.EXAMPLE
    if line.strip() == "{":
        hint = f"one object on each line: {hint}"
    elif line.lstrip().startswith(("#", "//")):
        hint = "JSON has no comments: remove the line"
    raise ConfigError(f"{where}: not JSON: {why}", hint)


@dataclass(frozen=True)
class Crossed:
    """Every picture of a folder with every prompt; without prompts each picture alone."""

    name: str
    pictures: Sequence[str]
    prompts: Sequence[Mapping[str, Any]] = field(default=({},))

    def jobs(self) -> Iterator[Job]:
        stems = [jobs.printable(Path(picture).stem) for picture in self.pictures]
        again = len(set(map(str.casefold, stems))) < len(stems)
        wide, number = len(str(len(self.prompts))), 0
        for at, (picture, stem) in enumerate(zip(self.pictures, stems, strict=True), 1):
            name = f"{at}-{stem}" if again else stem
            for which, values in enumerate(self.prompts, 1):
                number += 1
                id = f"{name}-{which:0{wide}}" if len(self.prompts) > 1 else name
                yield Job(number, id[-jobs.ID_LENGTH :], {"image": (picture,), **values})

    def digest(self, size: int | None = None) -> Digest:
        text = json.dumps([list(map(str, self.pictures)), [dict(one) for one in self.prompts]]).encode()
        return Digest(len(text), hashlib.sha256(text[:size]).hexdigest())


def find(name: str, prompts: Sequence[Mapping[str, Any]], root: Path | None, note: Any) -> Source:
    """The jobs that the command line names. Raises UsageError and IpaError."""
    if name == inputs.STDIN:
        raise UsageError("jobs are read more than once, and stdin only once", "ipa batch jobs.jsonl")
    path = expanded(Path(name))
    if exists(name, Path.is_dir) or (not exists(name) and reference.is_pattern(name)):
        if root is not None:
            raise UsageError("--root is for a file of jobs, and this is a folder of pictures", "leave it out")
        if any(one.get("num_images", 1) != 1 for one in prompts):
            raise UsageError("a job is one picture: num_images cannot be set", "write a line for each seed")
        each = [{key: value for key, value in one.items() if key != "num_images"} for one in prompts]
        return Crossed(name, reference.expand(name, note), each or ({},))
    if prompts:
        raise UsageError(
            "--prompt and --prompts-from are for a folder of references", "write prompts into the file of jobs"
        )
    folder = Path(os.path.realpath(path.absolute().parent))  # Path.resolve raises for links in a circle
    if root is not None and not exists(str(root), Path.is_dir):
        raise IpaError(f"--root {root} is not a folder", "check the path")
    return Listed(path, Fence(folder, folder if root is None else expanded(root).resolve()))


@dataclass(frozen=True)
class Survey:
    """What reading all jobs once tells: how many, and whether any job sets what belongs to a model."""

    count: int
    names: frozenset[str]
    first: Job


def survey(
    source: Source, doing: Callable[[str], None] = lambda _: None, check: Callable[[Job], None] = lambda _: None
) -> Survey:
    """Read every job once; `doing` gets their count. Raises ConfigError for a wrong one, and for two of the same id.

    `check` is called with each job, and may raise too.

    Ids are kept as 64-bit digests, 8 bytes a job; those that are equal are then compared themselves.
    """
    keys, names, first = array("Q"), set[str](), None
    for job in source.jobs():
        check(job)
        first = first or job
        names.update(job.values)
        keys.append(_key(job))
        if job.number % SHOWN == 0:
            doing(f"{job.number:,}")
        if job.number > MOST_JOBS:
            raise UsageError(f"more than {MOST_JOBS} jobs", "split the file")
    if first is None:
        raise IpaError(f"{source.name} contains no job", "write one on each line")
    import numpy

    ordered = numpy.frombuffer(keys, numpy.uint64)
    ordered.sort()  # in place: a list of the same numbers takes five times as much
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(again):
        _name_twins(source.jobs(), set(again.tolist()))
    return Survey(len(keys), frozenset(names), first)


def _name_twins(every: Iterable[Job], keys: set[int]) -> None:
    seen: dict[str, Job] = {}
    for job in every:
        if _key(job) in keys:
            other = seen.setdefault(job.stem.casefold(), job)
            if other is not job:
                same = (
                    f"the id {job.id!r}"
                    if job.id == other.id
                    else f"ids that differ in case alone, {other.id!r} and {job.id!r}"
                )
                raise ConfigError(f"jobs {other.number} and {job.number} have {same}", "each job has an id of its own")


def _key(job: Job) -> int:
    return int.from_bytes(hashlib.blake2b(job.stem.casefold().encode(), digest_size=8).digest(), "big")
