"""Paths as users write them, and the user's own folders."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path

from ipa_cli.errors import IpaError

_DEEP = re.compile(r"(^|/)\*\*(/|$)")
_REPEATED = re.compile(r"(?<![^/])(\*\*/)+(?=\*\*(/|$))")
FILE_ENDINGS = (".safetensors", ".sft", ".ckpt", ".bin", ".pt", ".pth", ".gguf", ".json")


def at_home(place: Callable[[str], Path]) -> Path | None:
    """A folder of this user from platformdirs, None where HOME is unset and the user unknown."""
    try:
        folder = place("ipa")
    except RuntimeError:  # older versions of platformdirs leave the "~" as it is
        return None
    return folder if folder.is_absolute() else None


def is_file(path: Path | None) -> bool:
    """Whether this is a file, as far as the user may look."""
    try:
        return path is not None and path.is_file()
    except OSError:
        return False


def exists(text: str, kind: Callable[[Path], bool] = Path.exists) -> bool:
    """Whether there is a file or folder of this name, `~` being home, as far as the user may look."""
    try:
        return kind(Path(text).expanduser())
    except (OSError, RuntimeError):  # names that are too long, and the home of an unknown user
        return False


def matches(pattern: str) -> Iterator[Path]:
    """The paths that match a pattern, in any order; `**` is any folders, each entered once where links lead in circles.

    Raises ValueError for more than two of these, which take time without end, and OSError.
    """
    pattern = _REPEATED.sub("", pattern)
    if pattern.split("/").count("**") > 2:
        raise ValueError("more than two ** in a pattern")
    found = _DEEP.search(pattern)
    if found is None:
        yield from map(Path, glob.iglob(pattern))  # noqa: PTH207 (Path.glob takes no absolute patterns)
        return
    above, below = pattern[: found.start()], pattern[found.end() :] or "*"
    seen = set[tuple[int, int]]()
    for top in glob.glob(above) if above else ["/" if found[0].startswith("/") else "."]:  # noqa: PTH207
        for folder in _folders(top, seen):
            yield from matches(f"{glob.escape(folder)}/{below}")


def _folders(top: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """A folder and those below it that are not hidden, but none of those `seen`."""
    todo = [top]
    while todo:
        folder = todo.pop()
        with suppress(OSError):  # it cannot be read
            about = os.stat(folder)  # noqa: PTH116
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(folder) as members:
                todo += [one.path for one in members if not one.name.startswith(".") and one.is_dir()]
            yield folder


def leads_out(path: Path, folder: Path) -> bool:
    """Whether what a picture's name stands for is outside `folder`, links resolved.

    Raises OSError, ValueError and RuntimeError for what is no path.
    """
    return any(not one.resolve().is_relative_to(folder) for one in chain((path,), _meant(path)))


def _meant(path: Path) -> Iterable[Path]:
    """What else a picture's name stands for, as in `images.reference.expand`; of a folder only the links."""
    if os.path.lexists(path):
        return _links(str(path), path.stat().st_mtime_ns) if path.is_dir() else ()
    if glob.has_magic(str(path)):
        return matches(str(path))
    above = path.parent
    links = _links(str(above), above.stat().st_mtime_ns) if above.is_dir() else ()
    return (link for link in links if link.stem == path.name)


@lru_cache(64)
def _links(folder: str, changed: int) -> tuple[Path, ...]:
    """The links in a folder, which many jobs may name."""
    with os.scandir(folder) as members:
        return tuple(Path(one.path) for one in members if one.is_symlink())


def is_repo_id(text: str) -> bool:
    """Whether `text` has the form `owner/name` of a hub repository, and not that of a file."""
    formed = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) is not None
    return formed and not text.lower().endswith(FILE_ENDINGS)


def expanded(path: Path) -> Path:
    """A path with `~` replaced by the home folder. Raises IpaError where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise IpaError(f"{path}: {error}", "write the folder in full") from error
