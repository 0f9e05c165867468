"""The folder of compiled graphs, and how large it may become."""

from __future__ import annotations

from pathlib import Path

from ipa_cli.config.places import at_home, expanded
from ipa_cli.config.settings import Settings
from ipa_cli.errors import IpaError, UsageError


def cache_dir(settings: Settings, without_home: Path | None = None) -> Path:
    """The folder of compiled graphs, `without_home` for a user who has none.

    Raises IpaError where there is neither a name for the folder nor a home nor a substitute.
    """
    import platformdirs

    named = settings.cache_dir
    folder = expanded(named).absolute() if named is not None else at_home(platformdirs.user_cache_path) or without_home
    if folder is None:
        raise IpaError(
            "compiled graphs have no folder: HOME is not set, and the system knows no home of this user",
            "set HOME, or name a folder with --cache-dir (or IPA_CACHE_DIR)",
        )
    return folder


def cache_limit(settings: Settings) -> int:
    """How many bytes of compiled graphs are kept. Raises UsageError for something else than a size."""
    from ipa_cli.config.units import parse_size

    try:
        return parse_size(settings.cache_max_size)
    except ValueError as error:
        raise UsageError(f"cache_max_size: {error}", "`ipa config show` tells where it is set") from None
