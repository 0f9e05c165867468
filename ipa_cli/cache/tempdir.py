"""The folder for temporary files of this process and of torch and Triton in it: on the cache's disk, mode 0700."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ipa_cli import cache
from ipa_cli.cache import Store, StoreError
from ipa_cli.system import child


@contextmanager
def temporary_files(store: Store) -> Iterator[None]:
    """Redirect all temporary files to a new folder, which is removed afterwards.

    Compiled graphs are unpacked there and stay as long as they may be called. Where the cache cannot be written, the
    folder is in TMPDIR. What killed processes left in the cache is removed first.
    """
    with ExitStack() as lasting:
        folder = _in_the_cache(store, lasting) or Path(
            lasting.enter_context(tempfile.TemporaryDirectory(prefix="ipa-"))
        )
        ours = child.temporary(folder)
        before = {name: os.environ.get(name) for name in ours}
        usual, tempfile.tempdir = tempfile.tempdir, str(folder)
        os.environ.update(ours)
        try:
            yield
        finally:
            tempfile.tempdir = usual
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _in_the_cache(store: Store, lasting: ExitStack) -> Path | None:
    try:
        cache.check_owner(store)
        cache.sweep(store)
        return lasting.enter_context(cache.scratch_folder(store))
    except (OSError, StoreError):
        return None
