"""Where the compiled graphs of some settings are kept, and the temporary files of working with them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from ipa_cli import config
from ipa_cli.cache import Sharing, Store, tempdir
from ipa_cli.config import Settings


def graph_store(settings: Settings) -> Store:
    """The store of compiled graphs that the settings name; a user without a home has the one of HOME=/."""
    url = settings.cache_remote
    sharing = None if url is None else Sharing(url, settings.cache_push, settings.cache_signing_key)
    return Store(config.cache_dir(settings, without_home=Path("/.cache/ipa")), config.cache_limit(settings), sharing)


def temporary_files(settings: Settings) -> AbstractContextManager[None]:
    """For as long as graphs are compiled or called: see `tempdir.temporary_files`."""
    return tempdir.temporary_files(graph_store(settings))
