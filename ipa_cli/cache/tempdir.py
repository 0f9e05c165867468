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
    """Redirect all temporary files to a `temporary_folder`, which is removed afterwards."""
    with temporary_folder(store) as folder, redirected_to(folder):
        yield


@contextmanager
def temporary_folder(store: Store) -> Iterator[Path]:
    """A new folder for temporary files, in the cache or, where that cannot be written, in TMPDIR; removed afterwards.

    Compiled graphs are unpacked there and stay as long as they may be called. What killed processes left in the cache
    is removed first.
    """
    with ExitStack() as lasting:
        yield _in_the_cache(store, lasting) or Path(lasting.enter_context(tempfile.TemporaryDirectory(prefix="ipa-")))


@contextmanager
def redirected_to(folder: Path) -> Iterator[None]:
    """Redirect the temporary files of this process, and compilers' caches, to `folder`."""
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
