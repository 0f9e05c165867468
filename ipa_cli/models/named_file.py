"""The weight file that a flag names: a file, one in a folder, or one in a hub repository; fetched if need be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ipa_cli.config.places import is_repo_id
from ipa_cli.errors import suggest
from ipa_cli.models import missing, weights
from ipa_cli.models.location import (
    Location,
    ModelError,
    expanded,
    fetched,
    folder_location,
    is_file,
    is_folder,
    repository,
)
from ipa_cli.result import Reporter

EXAMPLE = "give a .safetensors file, a folder, or a hub id (owner/name:file)"


@dataclass(frozen=True)
class Kind:
    """What is looked for: its name in messages, its flag, and the file names that come before others.

    `beside` is a small file in the same folder that is fetched with it where there is one.
    """

    name: str
    flag: str
    usual: tuple[str, ...]
    beside: str | None = None


def find(kind: Kind, source: str, file: str | None, reporter: Reporter) -> Path:
    """The file on disk. Raises ModelError where there is none, or several; UsageError for an address; HubError."""
    path = expanded(source)
    if is_file(path):
        missing.check(source, kind.flag)
        return path
    if is_folder(path):
        location = folder_location(path)
    elif is_repo_id(source):
        location = repository(source, None)
    else:
        missing.check(source, kind.flag)
        raise ModelError(f"there is no {kind.name} '{source}'", EXAMPLE)
    name = _in(location, kind) if file is None else _wanted(location, file)
    if location.folder is not None:
        return location.folder / name
    beside = [] if kind.beside is None else [str(PurePosixPath(name).with_name(kind.beside))]
    return fetched(location, [name, *filter(location.has, beside)], reporter, shows_bars=False) / name


def _known(path: Path) -> Path:
    if not (weights.is_safetensors(path) or weights.is_pickle(path)):
        raise ModelError(f"{path} is no .safetensors file", EXAMPLE)
    return path


def _wanted(location: Location, name: str) -> str:
    if location.has(name):
        return str(_known(Path(name)))
    folder = str(PurePosixPath(name).parent)
    here = location.files("" if folder == "." else folder)
    raise location.lacks(name, EXAMPLE, suggest(name, here))


def _in(location: Location, kind: Kind) -> str:
    """A usual name, or the only file; pickles count where there is nothing else."""
    if usual := next(filter(location.has, kind.usual), None):
        return usual
    here = location.files()
    safetensors, pickles = (
        [name for name in here if is_of_kind(name)] for is_of_kind in (weights.is_safetensors, weights.is_pickle)
    )
    found = safetensors or pickles
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(found[:10]) + (", …" if len(found) > 10 else "")
        raise ModelError(f"{location} holds several files: {shown}", f"choose one: {kind.flag} '{location}:{found[0]}'")
    raise ModelError(f"{location} holds no {kind.name}", EXAMPLE)
