"""Which settings a project's `ipa.toml` may set.

It comes with a folder that anybody may have made. A file that other users can write is not read. Otherwise it may
describe pictures and name files beside it or repositories on the hub; settings that choose code, compiled graphs, other
places or servers are ignored until `ipa config trust`, which holds for the current content of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_cli.config import files
from ipa_cli.config.dropping import NO_IMAGE
from ipa_cli.config.places import at_home, exists, is_file, is_repo_id, leads_out
from ipa_cli.config.setting import OWN, PLACE
from ipa_cli.config.settings import FIELDS, MODELS, Settings
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.system import ownership
from ipa_cli.system.inputs import STDIN

MOST_BYTES = 1 << 24
ON_HUB = ("model", "vae", "ip_adapter", "image_encoder", "lora", "control", "embedding")  # may name a hub repository
NAMES = (*MODELS, "own", "none")  # what these may name besides, whatever lies in the folder
PICTURES = ("image", "negative_image", "init_image", "inpaint_mask", "mask", "region")
HINT = "`ipa config trust` allows the file, as it is now, to set everything"


@dataclass(frozen=True)
class Ignored:
    """A setting of a project's file that is ignored, or without a name the whole file, and why."""

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
    """The settings of a project's file that apply, and those ignored. Raises IpaError if the file cannot be read.

    Relative paths are relative to its folder, and returned relative to `cwd`. Errors are added to `problems`, as in
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
    whys = (
        {} if trusted else {name: why for name, value in values.items() if (why := refusal(name, value, path.parent))}
    )
    kept = {
        name: value
        if path.parent == cwd
        else with_places(name, value, lambda name, text: beside(name, text, path.parent))
        for name, value in values.items()
        if name not in whys
    }
    return kept, tuple(Ignored(path, name, values[name], why) for name, why in whys.items())


def trust(path: Path) -> dict[str, Any]:
    """Allow a project's file, as it is now, to set everything; returns what this allows. Raises IpaError."""
    data = files.read(path)
    values = files.parse(path, data)
    _keep({**_trusted(), str(path): _digest(data)})
    return {name: value for name, value in values.items() if refusal(name, value, path.parent)}


def is_trusted(path: Path) -> bool:
    """Whether a file is trusted with its current content. Raises IpaError if it cannot be read."""
    return _trusted().get(str(path)) == _digest(files.read(path))


def untrust(path: Path) -> bool:
    """Stop trusting a file; False if it was not trusted. Raises IpaError."""
    trusted = _trusted()
    if str(path) not in trusted:
        return False
    _keep({known: digest for known, digest in trusted.items() if known != str(path)})
    return True


def repositories(settings: Settings, names: Iterable[str]) -> list[str]:
    """The hub repositories in settings of these `names`."""
    found: list[str] = []

    def look(name: str, text: str) -> str:
        if name in ON_HUB and is_repo_id(text.partition(":")[0]) and not exists(text):
            found.append(text)
        return text

    for name in names:
        with_places(name, getattr(settings, name), look)
    return list(dict.fromkeys(found))


# --- what may be set --------------------------------------------------------------------------------------------------


def refusal(name: str, value: Any, folder: Path) -> str | None:
    """Why an untrusted file in `folder` may not set `name` to `value`, None if it may."""
    if FIELDS[name].metadata["kind"] == OWN:
        return "it chooses code, compiled graphs or a server"
    problems: list[str] = []

    def look(name: str, text: str) -> str:
        problem = _astray(name, text, folder)
        if problem:
            problems.append(problem)
        return text

    with_places(name, value, look)
    return problems[0] if problems else None


def _astray(name: str, text: str, folder: Path) -> str | None:
    if text == "-":
        return "it means stdin or stdout"
    if "://" in text or text.lower().startswith(("data:", "file:", "ftp:")):
        return "it names a server"
    if text.startswith(("/", "~")):
        return f"it is outside {folder}"
    try:
        place = folder / text
        inside = not leads_out(place, folder) if name in PICTURES else place.resolve().is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, links in a circle
        return "it is not a path"
    return None if inside else f"it is outside {folder}"


def beside(name: str, text: str, folder: Path) -> str:
    """A path in a file of `folder`, made usable from elsewhere; names of presets and repositories stay unchanged."""
    if text in ("", "-") or "://" in text or text.startswith(("/", "~")):
        return text
    place = folder / text
    named = name in ON_HUB and (text in NAMES or not exists(str(place)))
    return text if named else str(place)


def with_places(name: str, value: Any, change: Callable[[str, str], str]) -> Any:
    """The value of a setting with `change(setting, place)` applied to every place in it."""
    if value is None or FIELDS[name].metadata["kind"] != PLACE or (name == "image" and value == NO_IMAGE):
        return value
    if name in ("adapter", "lora", "control", "embedding", "region"):
        return tuple(one.with_places(change) for one in value)
    return tuple(change(name, text) for text in value) if isinstance(value, tuple) else change(name, value)


def check_not_stdin(settings: Settings, why: str) -> None:
    """Raise UsageError, which says `why`, where a place is stdin."""

    def there(_: str, place: str) -> str:
        if place == STDIN:
            raise UsageError(why, "name a file in place of -")
        return place

    for name in FIELDS:
        with_places(name, getattr(settings, name), there)


def _foreign(path: Path) -> str | None:
    try:
        return ownership.other_writer(path)
    except OSError as error:  # it is gone, or a folder above is not readable
        return f"{error.filename} cannot be checked: {error.strerror}"


# --- trusted files ----------------------------------------------------------------------------------------------------


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _list() -> Path | None:
    import platformdirs

    folder = at_home(platformdirs.user_state_path)
    return None if folder is None else folder / "trusted.json"


def _trusted() -> dict[str, str]:
    """Trusted files and the digests of their content; none if other users can write the list."""
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
    from ipa_cli.system.files import make_own_folder, replace

    path, hint = _list(), "set XDG_STATE_HOME to another folder"
    if path is None:
        raise IpaError(
            "the list of trusted files has no folder: HOME is not set, and the system knows no home of this user",
            "set HOME",
        )
    make_own_folder(path.parent, hint)
    if problem := _foreign(path.parent):
        raise IpaError(f"the list of trusted files cannot be written: {problem}", hint)
    replace(path, json.dumps(trusted, indent=1).encode(), hint)
