import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipa_cli.cache import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mount") or libc.mount(b"tmpfs", bytes(disk), b"tmpfs", 0, b"size=256k"):
        pytest.skip("may not mount a small disk")
    yield disk
    libc.umount2(bytes(disk), 2)
