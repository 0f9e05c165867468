"""The architectures that can be drawn with, each in a module of its own; adding one is adding a line to `TABLE`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ipa_cli.models.architectures.base import IP_ADAPTERS, Architecture
from ipa_cli.models.architectures.sd15 import SD15
from ipa_cli.models.architectures.sdxl import SDXL

TABLE: tuple[Architecture, ...] = (SDXL, SD15)


def of_unet(config: Mapping[str, Any]) -> Architecture | None:
    """The architecture of a UNet by its configuration; None for inpainting, SD 2 and whatever takes other inputs."""
    return next((one for one in TABLE if one.fits_unet(config)), None)


def of_preset(name: str) -> Architecture | None:
    """The architecture that `--model` means by a preset's name."""
    return next((one for one in TABLE if one.preset == name), None)


def presets() -> tuple[str, ...]:
    """The names of the presets, for `--model`."""
    return tuple(one.preset for one in TABLE)


def names() -> str:
    """All architectures for a message: "SDXL or SD 1.5"."""
    *others, last = (one.name for one in TABLE)
    return f"{', '.join(others)} or {last}" if others else last


def flags(file: str) -> str:
    """The flags that choose a file of `IP_ADAPTERS`."""
    path = PurePosixPath(file)
    choice = f"--ip-adapter-subfolder {path.parent} --ip-adapter-weight-name {path.name}"
    return f"--ip-adapter {IP_ADAPTERS} {choice}"
