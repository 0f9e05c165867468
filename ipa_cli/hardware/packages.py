"""Versions of installed packages; none is imported to find them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

# What models and graphs depend on, whatever the backend.
PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "huggingface_hub",
    "triton",
)


def installed(more: Iterable[str] = ()) -> dict[str, str | None]:
    """The version of each of `PACKAGES` and of `more`, None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in (*PACKAGES, *more):
        try:
            # Half-removed packages leave metadata without a version.
            found[name] = metadata.version(name) or None
        except (metadata.PackageNotFoundError, KeyError):
            found[name] = None
    return found
