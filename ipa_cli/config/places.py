"""Paths as users write them, and the user's own folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ipa_cli.errors import IpaError


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


def exists(text: str) -> bool:
    """Whether there is a file or folder of this name, `~` being home, as far as the user may look."""
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError):  # names that are too long, and the home of an unknown user
        return False


def expanded(path: Path) -> Path:
    """A path with `~` replaced by the home folder. Raises IpaError where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise IpaError(f"{path}: {error}", "write the folder in full") from error
