"""Where benchmarks write their figures: folders that are made when the command line is read."""

from __future__ import annotations

import os
from pathlib import Path


def folder(given: str) -> Path:
    """The type of an argument that names a folder to write into."""
    path = Path(given).absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


def file(given: str) -> Path:
    """The type of an argument that names a file to write."""
    return folder(str(Path(given).parent)) / Path(given).name


def save(name: str, text: str) -> None:
    """Write a file into $OUT, where that is set."""
    if "OUT" in os.environ:
        (folder(os.environ["OUT"]) / name).write_text(text)
