"""Folders of model files, on disk or in a hub repository, and the small files read from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import hub
from .errors import IpaError


class ModelError(IpaError):
    """A model, or one of its parts, is missing, broken or does not fit the others."""


@dataclass(frozen=True)
class Location:
    """A folder of model files, on disk or (not yet fetched) in a hub repository."""

    folder: Path | None
    repo: str | None = None
    revision: str | None = None
    names: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.repo or str(self.folder)


def folder_location(path: Path) -> Location:
    """A folder on disk and the names of all files in it."""
    names = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    return Location(path.absolute(), names=frozenset(names))


def repository(repo: str, revision: str | None) -> Location:
    """A hub repository and the names of all files in it. Raises HubError when it cannot be listed."""
    return Location(None, repo, revision, frozenset(hub.list_files(repo, revision)))


def read_json(location: Location, name: str) -> dict[str, Any]:
    """A JSON object in a location, fetched first where it is on the hub. Raises ModelError when it is not there."""
    if location.folder is None:
        assert location.repo is not None
        from .report import Silent

        path = hub.fetch(location.repo, location.revision, [name], Silent(), shows_bars=False) / name
    else:
        path = location.folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{location} has no {name}", "name a whole diffusers folder with --model") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "download it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object", "download it again")
    return content
