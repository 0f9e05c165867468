"""Versions of installed packages; none is imported to find them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import metadata
from importlib.util import find_spec

# What models and graphs depend on, whatever the backend.
PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "huggingface_hub",
    "triton",
)
# Modules of the extra ipa-cli[serve].
SERVE = ("fastapi", "uvicorn", "multipart", "prometheus_client")


def installed(more: Iterable[str] = ()) -> dict[str, str | None]:
    """The version of each of `PACKAGES` and of `more`, None where it is not installed."""
    return {name: version(name) for name in (*PACKAGES, *more)}


def missing_to_serve() -> list[str]:
    """The modules that `ipa serve` needs and are not installed."""
    return [name for name in SERVE if find_spec(name) is None]


@cache  # every command asks for two dozen, each a file to parse
def version(name: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return metadata.version(name) or None  # half-removed packages leave metadata without one
    except (metadata.PackageNotFoundError, KeyError):
        return None
