"""One job: a picture with settings of its own. A file of jobs is foreign: what it may set is decided here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_cli.config import FIELDS, ConfigError, checked, with_places
from ipa_cli.config.checks import with_point
from ipa_cli.config.names import by_setting, meant, setting_of
from ipa_cli.config.project import beside, refusal
from ipa_cli.config.setting import OWN, PLACE
from ipa_cli.config.settings import EXPLAINED
from ipa_cli.config.units import parse_picture_size
from ipa_cli.config.values import as_json, element_type, expected, from_json, from_python, from_text
from ipa_cli.engine.keywords import JSON
from ipa_cli.errors import UsageError, suggest
from ipa_cli.images.filenames import slug

ID = "id"
SIZE, SIDES = "size", ("width", "height")  # a size stands for both sides, as --size
ID_LENGTH = 200  # characters
EXAMPLE = '{"id": "cat-1", "prompt": "a cat"}'
PICTURES = "pictures"  # folder of the output
PER_FOLDER = 10_000  # pictures
# Settings of the whole batch, and why a job has none of its own.
OF_THE_BATCH = {
    "num_images": "a job is one picture: write a line for each seed",
    "image_per_picture": "a job is one picture: name its own image",
    "batch_size": "it is set for all: --batch-size",
    "output": "pictures are named by id, in the folder of --output",
    "format": "it is set for all: --format",
    "quality": "it is set for all: --quality",
    "preview": "nothing is shown while a batch runs",
    "device": "it is set for all: --device",
    "warmup": "nothing is timed",
}
ALLOWED = tuple(name for name in FIELDS if name not in OF_THE_BATCH)
_WHOLE = re.compile(r"\d+\.0")  # as pandas writes whole numbers of a column with empty cells
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.", re.IGNORECASE)  # of Windows


@dataclass(frozen=True)
class Job:
    """A picture to draw: `number` counts from 1 in the order of the file, `values` are its own settings by name.

    `name` is that of its file, without a suffix, where it does not follow from the id.
    """

    number: int
    id: str
    values: Mapping[str, Any]
    name: str | None = None

    @property
    def stem(self) -> str:
        """The name of its file; without one its id where that is a plain name, else a readable one with a digest."""
        if self.name is not None:
            return self.name
        if _PLAIN.fullmatch(self.id) and not _RESERVED.fullmatch(self.id):
            return self.id
        import hashlib

        return f"{slug(self.id)}-{hashlib.sha256(self.id.encode()).hexdigest()[:12]}"

    def file(self, suffix: str) -> str:
        """Where its picture lies, relative to the output; up to `PER_FOLDER` share a folder."""
        place = (self.number - 1) // PER_FOLDER
        return f"{PICTURES}/{f'{place:04}/' if place else ''}{self.stem}{suffix}"

    def as_json(self) -> str:
        """One line, for another process."""
        values = {name: as_json(value) for name, value in self.values.items()}
        return json.dumps({"number": self.number, ID: self.id, "values": values, "name": self.name})


def of_json(line: str) -> Job:
    """The job of `Job.as_json`."""
    found = json.loads(line)
    values = {name: from_json(name, value, found[ID]) for name, value in found["values"].items()}
    return Job(found["number"], found[ID], values, found["name"])


@dataclass(frozen=True)
class Fence:
    """Relative paths of jobs are relative to `folder`, and no path may lead out of `root`; both are resolved."""

    folder: Path
    root: Path


def of_mapping(number: int, said: Any, where: str, fence: Fence) -> Job:
    """The job of an object in a JSONL file, found `where`. Raises ConfigError."""
    if not isinstance(said, Mapping):
        raise ConfigError(f"{where}: not a JSON object", f"one object on each line: {EXAMPLE}")
    values = {}
    for name, value in _by_setting(said, where).items():
        if value is not None:
            _check_name(name, where)
            plain = json.dumps(value) if name in JSON and not isinstance(value, str) else value
            values[name] = _explained(lambda n=name, v=plain: from_python(n, v), where)  # type: ignore[misc]
    return _job(number, said.get(ID), values, where, fence)


def of_row(number: int, said: Mapping[str, str], where: str, fence: Fence, decimal_comma: bool = False) -> Job:
    """The job of a row of a CSV file, as `of_mapping`; an empty cell sets nothing.

    With `decimal_comma` a number may be written 0,8, as where semicolons separate cells (R's read.csv2).
    """
    values = {}
    for name, text in _by_setting({name: text or None for name, text in said.items()}, where, str).items():
        if text is not None:
            plain = _with_point(name, text, where) if decimal_comma else text
            plain = plain[:-2] if element_type(name) is int and _WHOLE.fullmatch(plain) else plain
            values[name] = _explained(lambda n=name, t=plain: from_text(n, t, n, EXPLAINED), where)  # type: ignore[misc]
    return _job(number, said.get(ID), values, where, fence)


def _by_setting(said: Mapping[str, Any], where: str, side: Callable[[int], Any] = int) -> dict[str, Any]:
    """What a job says but for its id, by the names of settings: its size as two, each as `side` has a number."""
    found = by_setting({name: value for name, value in said.items() if name != ID}, where, ConfigError)
    size = found.pop(SIZE, None)
    if size is None:
        return found
    if any(found.get(name) is not None for name in SIDES):
        raise ConfigError(f"{where}: size and width or height are both given", "leave out one or the other")
    both = _explained(lambda: parse_picture_size(str(size)), where)
    return {**found, **dict(zip(SIDES, map(side, both), strict=True))}


def _with_point(name: str, text: str, where: str) -> str:
    """The text of a cell, with a point in place of a decimal comma. Raises ConfigError where it may be two numbers."""
    number = with_point(text)
    if number is None or (element_type(name) is not float and not FIELDS[name].metadata["numeric"]):
        return text
    if expected(name)[0] is tuple:
        two = text.strip().replace(",", ".0,")
        raise ConfigError(f"{where}: {name} {text} may be one number or two", f"write {number} for one, {two} for two")
    return number


def column(cell: str) -> str:
    """What a column is named: settings, and the id, in any case and with spaces, as in spreadsheets."""
    plain = "_".join(cell.casefold().split())
    return plain if setting_of(plain) in (ID, SIZE, *OF_THE_BATCH, *FIELDS) else cell.strip()


def check_columns(names: list[str], where: str) -> None:
    """Raise ConfigError for a column that is no setting, or is there twice, and where there is no id."""
    if names[0].casefold().startswith("sep="):
        raise ConfigError(f"{where}: '{names[0]}' is for Excel, and names no column", "remove this line")
    if ID not in names:
        hint = "the first line names the columns, such as id,prompt,seed; a picture is named by the id of its job"
        raise ConfigError(f"{where}: no column id", hint)
    settings = list(map(setting_of, names))
    unknown = [name for name in settings if name not in (ID, SIZE, *OF_THE_BATCH, *FIELDS)]
    if len(unknown) > 1:
        named = "; ".join(f"'{name}'{suggest(meant(name), ALLOWED).replace(';', ':')}" for name in unknown)
        raise ConfigError(f"{where}: unknown settings {named}", EXPLAINED)
    for name in settings:
        if name not in (ID, SIZE):
            _check_name(name, where)
        if settings.count(name) > 1:
            raise ConfigError(f"{where}: the column {name} is there twice", "leave one of them out")


def _check_name(name: str, where: str) -> None:
    if name in OF_THE_BATCH:
        raise ConfigError(f"{where}: {name} cannot be set by a job: {OF_THE_BATCH[name]}", "leave it out")
    if name not in FIELDS:
        near = suggest(meant(column(name)), ("id", *ALLOWED))
        raise ConfigError(f"{where}: unknown setting '{name}'{near}", EXPLAINED)


def _job(number: int, id: Any, values: Mapping[str, Any], where: str, fence: Fence) -> Job:
    if type(id) is int:
        id = str(id)
    if not isinstance(id, str) or not id.strip() or len(id) > ID_LENGTH or not id.isprintable():
        wanted = f"text of 1 to {ID_LENGTH} printable characters"
        raise ConfigError(f"{where}: {'no id' if id is None else 'an id is ' + wanted}", 'such as "id": "cat-1"')
    return Job(number, id, {name: _permitted(name, value, where, fence) for name, value in values.items()})


def _permitted(name: str, value: Any, where: str, fence: Fence) -> Any:
    """The value with its places made usable from here. Raises ConfigError for what a foreign file may not set."""

    def inside(_: str, text: str) -> str:
        path = fence.folder / text
        return str(path.relative_to(fence.root)) if _is_path(text) and path.is_relative_to(fence.root) else text

    value = checked(name, value, where, ConfigError)
    if FIELDS[name].metadata["kind"] not in (OWN, PLACE):
        return value
    why = refusal(name, with_places(name, value, inside), fence.root)
    if why is None:
        same = fence.folder == Path.cwd()
        return value if same else with_places(name, value, lambda one, text: beside(one, text, fence.folder))
    hint = "--root FOLDER lets jobs name files in another folder" if "outside" in why else "give it as a flag"
    raise ConfigError(f"{where}: {name} cannot be set: {why}", hint)


def printable(name: str) -> str:
    """A file's name as an id: control characters and bytes that are not UTF-8 become a replacement character."""
    return "".join(character if character.isprintable() else "\ufffd" for character in name)


def _is_path(text: str) -> bool:
    return text != "-" and "://" not in text and not text.startswith("~")


def _explained(read: Any, where: str) -> Any:
    try:
        return read()
    except UsageError as error:
        raise ConfigError(f"{where}: {error.message}", error.hint) from error
