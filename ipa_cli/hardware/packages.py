"""Versions of the packages that backends and graphs depend on; nothing is imported to find them."""

from __future__ import annotations

from importlib import metadata

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "huggingface_hub",
    "nexfort",
    "onediff",
    "onediffx",
    "oneflow",
    "triton",
)


def installed() -> dict[str, str | None]:
    """The version of every package in `PACKAGES`, None where it is not installed; nothing is imported."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            # Half-removed packages leave metadata without a version.
            found[name] = metadata.version(name) or None
        except (metadata.PackageNotFoundError, KeyError):
            found[name] = None
    return found
