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
    return {name: version(name) for name in (*PACKAGES, *more)}


def version(name: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return metadata.version(name) or None  # half-removed packages leave metadata without one
    except (metadata.PackageNotFoundError, KeyError):
        return None
