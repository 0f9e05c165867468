"""The backends by name."""

from __future__ import annotations

import hashlib
import importlib
from functools import lru_cache
from pathlib import Path
from typing import cast

from ipa_cli.backends.base import Backend
from ipa_cli.errors import UsageError

MODULES = {
    "eager": "ipa_cli.backends.eager",
    "inductor": "ipa_cli.backends.inductor.backend",
    "nexfort": "ipa_cli.backends.onediff.nexfort",
    "oneflow": "ipa_cli.backends.onediff.oneflow",
}
# Folders of the package whose whole text decides what a backend's graphs compute.
CODE = {
    "inductor": ("backends/inductor", "unet"),
    "nexfort": ("backends/onediff", "unet"),
    "oneflow": ("backends/onediff", "unet"),
}


def get(name: str) -> Backend:
    """The backend called `name`; raises UsageError when there is none."""
    if name not in MODULES:
        raise UsageError(f"there is no backend '{name}'", f"choose one of {', '.join(MODULES)}")
    return cast(Backend, importlib.import_module(MODULES[name]))


@lru_cache
def code(name: str) -> str:
    """A digest of our own part in a backend's graphs; nothing for one that keeps none."""
    here = Path(__file__).parents[1]
    files = [path for folder in CODE.get(name, ()) for path in sorted((here / folder).rglob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16] if files else ""
