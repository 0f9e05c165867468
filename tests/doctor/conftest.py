"""Fixtures of the doctor's tests."""

import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def mount(tmp_path):
    """Mount a small disk of its own; skips where this user may not."""
    mounted = []

    def call(*options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", ",".join(("mode=0700", *options)), "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no program to mount a disk with")
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield call
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)
