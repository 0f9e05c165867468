"""Folders of model files, on disk or in a hub repository, and the small files read from them."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.errors import IpaError
from ipa_cli.models import hub
from ipa_cli.system.inputs import read_bytes

if TYPE_CHECKING:
    from ipa_cli.result import Reporter

MOST_BYTES = 1 << 20
DIFFUSERS, CONFIG = "diffusion_pytorch_model", "config.json"  # how diffusers calls weights and their configuration


class ModelError(IpaError):
    """A model, or one of its parts, is missing, broken or does not fit the others."""


@dataclass(frozen=True)
class Location:
    """A folder of model files, on disk or (not yet fetched) in a hub repository.

    A folder is asked for what is wanted and never walked through: beside a model may lie anything.
    """

    folder: Path | None
    repo: str | None = None
    revision: str | None = None
    names: frozenset[str] = frozenset()  # of all files of a repository
    commit: str | None = None  # what the revision stood for when the names were listed
    reached: bool = True  # whether the hub listed the names; else they are those in the local cache

    def __str__(self) -> str:
        return self.repo or str(self.folder)

    def lacks(self, what: str, hint: str, meant: str = "") -> ModelError:
        """That something is not here, and what may be `meant`; where the hub was not reached, it may be there."""
        if self.reached:
            return ModelError(f"{self} has no {what}{meant}", hint)
        words = f"the hub was not reached, and the local cache has no {what} of {self}{meant}"
        return ModelError(words, "connect to the network, and unset HF_HUB_OFFLINE if it is set")

    def has(self, name: str) -> bool:
        """Whether there is a file of this name, links followed. Raises ModelError where nobody may look."""
        if self.folder is None:
            return name in self.names
        return is_file(self.folder / name)

    def files(self, within: str = "") -> list[str]:
        """Names of the files in one folder, not in those below it, sorted; hidden ones are nobody's weights."""
        prefix = f"{within}/" if within else ""
        if self.folder is None:
            inside = (name[len(prefix) :] for name in self.names if name.startswith(prefix))
            found = [name for name in inside if "/" not in name]
        elif is_folder(self.folder / within):
            folder = self.folder / within
            try:
                with os.scandir(folder) as entries:
                    found = [entry.name for entry in entries if _is_file(entry)]
            except OSError as error:
                raise _unreadable(folder, error) from error
        else:
            found = []
        return sorted(prefix + name for name in found if not name.startswith("."))


def expanded(text: str) -> Path:
    """A path as it was typed, `~` as the home folder. Raises ModelError where there is no such home."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ModelError(f"{text}: {error}", "write the folder in full") from error


def is_file(path: Path) -> bool:
    """Whether there is such a file, links followed. Raises ModelError where nobody may look."""
    return _is(Path.is_file, path)


def _is_file(entry: os.DirEntry[str]) -> bool:
    # Only what lies behind a link has to be asked for: folders of 90,000 files are met.
    return entry.is_file(follow_symlinks=False) or (entry.is_symlink() and is_file(Path(entry.path)))


def is_folder(path: Path) -> bool:
    """Whether there is such a folder, links followed. Raises ModelError where nobody may look."""
    return _is(Path.is_dir, path)


def _is(kind: Any, path: Path) -> bool:
    try:
        return bool(kind(path))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise _unreadable(path, error) from error
        return False  # a name too long, for example


def _unreadable(path: Path, error: OSError) -> ModelError:
    return ModelError(f"{path} cannot be read: {error.strerror}", "check its permissions, and those of its folder")


def inside(folder: str, name: str) -> str:
    """The name of a file in a folder of a location; the folder may be the location itself, ""."""
    return f"{folder}/{name}" if folder else name


def folder_location(path: Path) -> Location:
    """A folder on disk."""
    return Location(path.absolute())


def repository(repo: str, revision: str | None) -> Location:
    """A hub repository and the names of all files in it. Raises HubError when it cannot be listed."""
    names, commit, reached = hub.list_files(repo, revision)
    return Location(None, repo, revision, frozenset(names), commit, reached)


def fetched(location: Location, files: Iterable[str], reporter: Reporter, shows_bars: bool) -> Path:
    """The folder on disk that holds these files of a hub repository. Raises HubError."""
    assert location.repo is not None
    return hub.fetch(location.repo, location.revision, files, reporter, shows_bars, location.commit)


def config_beside(file: Path, kind: str) -> dict[str, Any] | None:
    """The configuration beside a weight file by diffusers' name; None where there is none of a class that begins so.

    A part of a model that is named by its file is the same as by its folder.
    """
    if not file.name.startswith(DIFFUSERS) or not is_file(file.with_name(CONFIG)):
        return None
    found = read_json(folder_location(file.parent), CONFIG)
    return found if str(found.get("_class_name")).startswith(kind) else None


def read_json(location: Location, name: str, most: int = MOST_BYTES) -> dict[str, Any]:
    """A JSON object in a location, fetched first where it is on the hub. Raises IpaError when it cannot be read."""
    if not location.has(name):
        raise location.lacks(name, "name a whole diffusers folder with --model")
    if location.folder is None:
        from ipa_cli.result import NullReporter

        path = fetched(location, [name], NullReporter(), shows_bars=False) / name
    else:
        path = location.folder / name
    try:
        content = json.loads(read_bytes(path, most, "a configuration"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}", "download it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object", "download it again")
    return content
