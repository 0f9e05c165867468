"""What a project's `ipa.toml` may say.

It comes with a folder that may be anybody's. A file that somebody else could have written is not read. One of ours may
describe pictures and name what lies beside it or on the hub; what chooses code, compiled graphs, other places or
servers waits until the user has said `ipa config trust`, which holds for this content of the file alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_cli.config import files
from ipa_cli.config.places import at_home, exists, is_file
from ipa_cli.config.settings import FIELDS, OWN, PLACE, Settings
from ipa_cli.errors import IpaError
from ipa_cli.system import ownership

MOST_BYTES = 1 << 24
ON_HUB = ("model", "vae", "ip_adapter", "image_encoder")  # may name a hub repository
HINT = "`ipa config trust` lets the file, as it is now, set everything"


@dataclass(frozen=True)
class Ignored:
    """A setting of a project's file that was not taken over, or with no name the whole file, and why."""

    path: Path
    name: str | None
    value: Any
    why: str

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.name} is ignored: {self.why}" if self.name else f"{self.path} is ignored: {self.why}"
        )


def read_project(
    path: Path, cwd: Path, problems: list[IpaError] | None = None
) -> tuple[dict[str, Any], tuple[Ignored, ...]]:
    """The settings that count of a project's file, and what does not. Raises IpaError for a file that cannot be read.

    What it names is found from its folder, and is written so that it is found from `cwd`. `problems` are told of as by
    `files.parse`.
    """
    known = _trusted().get(str(path))
    problem = _foreign(path)
    if problem and known is None:
        return {}, (Ignored(path, None, None, problem),)
    data = files.read(path)
    trusted = known == _digest(data)
    if problem and not trusted:
        return {}, (Ignored(path, None, None, f"{problem}, and it has changed since it was trusted"),)
    values = files.parse(path, data, problems)
    whys = {} if trusted else {name: why for name, value in values.items() if (why := _refusal(name, value, path))}
    kept = {
        name: value if path.parent == cwd else with_places(name, value, lambda name, text: _found(name, text, path))
        for name, value in values.items()
        if name not in whys
    }
    return kept, tuple(Ignored(path, name, values[name], why) for name, why in whys.items())


def trust(path: Path) -> dict[str, Any]:
    """Let a project's file, as it is now, set everything; returns what that allows. Raises IpaError."""
    data = files.read(path)
    values = files.parse(path, data)
    _keep({**_trusted(), str(path): _digest(data)})
    return {name: value for name, value in values.items() if _refusal(name, value, path)}


def is_trusted(path: Path) -> bool:
    """Whether a file was trusted as it is now. Raises IpaError when it cannot be read."""
    return _trusted().get(str(path)) == _digest(files.read(path))


def untrust(path: Path) -> bool:
    """Forget that a file was trusted; False when it was not. Raises IpaError."""
    trusted = _trusted()
    if str(path) not in trusted:
        return False
    _keep({known: digest for known, digest in trusted.items() if known != str(path)})
    return True


def repositories(settings: Settings, names: Iterable[str]) -> list[str]:
    """The hub repositories that settings of these `names` speak of."""
    found: list[str] = []

    def look(name: str, text: str) -> str:
        if name in ON_HUB and "/" in text and not exists(text):
            found.append(text)
        return text

    for name in names:
        with_places(name, getattr(settings, name), look)
    return list(dict.fromkeys(found))


# --- what may be said -------------------------------------------------------------------------------------------------


def _refusal(name: str, value: Any, path: Path) -> str | None:
    """Why a file that was not trusted may not set `name` to `value`."""
    if FIELDS[name].metadata["kind"] == OWN:
        return "it chooses code or compiled graphs"
    problems: list[str] = []

    def look(name: str, text: str) -> str:
        problem = _astray(text, path.parent)
        if problem:
            problems.append(problem)
        return text

    with_places(name, value, look)
    return problems[0] if problems else None


def _astray(text: str, folder: Path) -> str | None:
    if text == "-":
        return "it stands for a pipe"
    if "://" in text or text.lower().startswith(("data:", "file:", "ftp:")):
        return "it names a server"
    if text.startswith(("/", "~")):
        return f"it lies outside of {folder}"
    try:
        inside = (folder / text).resolve().is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, links in a circle
        return "it is not a path"
    return None if inside else f"it lies outside of {folder}"


def _found(name: str, text: str, path: Path) -> str:
    """A place that a project's file names, for use from elsewhere; what may be a preset or on the hub stays so."""
    if text in ("", "-") or "://" in text or text.startswith(("/", "~")):
        return text
    place = path.parent / text
    repository = name in ON_HUB and not ("/" in text and exists(str(place)))
    return text if repository else str(place)


def with_places(name: str, value: Any, change: Callable[[str, str], str]) -> Any:
    """The value of a setting after `change`, of a setting's name and the place, to every place that it names."""
    if value is None or FIELDS[name].metadata["kind"] != PLACE:
        return value
    if name == "adapter":
        return tuple(adapter.with_places(change) for adapter in value)
    return tuple(change(name, text) for text in value) if isinstance(value, tuple) else change(name, value)


def _foreign(path: Path) -> str | None:
    try:
        return ownership.foreign(path)
    except OSError as error:  # it went away, or a folder above may not be entered
        return f"{error.filename} cannot be looked at: {error.strerror}"


# --- the files that the user trusts -----------------------------------------------------------------------------------


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _list() -> Path | None:
    import platformdirs

    folder = at_home(platformdirs.user_state_path)
    return None if folder is None else folder / "trusted.json"


def _trusted() -> dict[str, str]:
    """Files and the digest of what they said when they were trusted; none when others could have written the list."""
    path = _list()
    if path is None or not is_file(path) or _foreign(path):
        return {}
    from ipa_cli.system.inputs import read_bytes

    try:
        found = json.loads(read_bytes(path, MOST_BYTES, "the list of trusted files"))
        if not isinstance(found, dict):
            raise ValueError("not a table")
    except (ValueError, RecursionError) as error:
        raise IpaError(f"the list of trusted files {path} is damaged: {error}", f"rm {path}") from error
    return found


def _keep(trusted: dict[str, str]) -> None:
    from ipa_cli.system.files import make_folder, replace

    path, hint = _list(), "let XDG_STATE_HOME name another folder"
    if path is None:
        raise IpaError("what is trusted cannot be kept: HOME is not set, and the system knows none", "set HOME")
    make_folder(path.parent, hint)
    if problem := _foreign(path.parent):
        raise IpaError(f"what is trusted cannot be kept: {problem}", hint)
    replace(path, json.dumps(trusted, indent=1).encode(), hint)
