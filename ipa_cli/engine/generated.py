"""What `ipa generate` gives back, drawn here or by a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipa_cli.config import Settings
from ipa_cli.errors import UsageError
from ipa_cli.images import filenames

STDOUT = "-"
NO_FIELDS = {"seed": 0, "scale": 0, "index": 0, "prompt": "", "image": ""}  # of a name, until the request is made


@dataclass(frozen=True)
class Drawn:
    """A picture on disk, or without a path in `Generated.stdout`."""

    path: Path | None
    prompt: str
    seed: int
    scale: float
    width: int
    height: int
    sha256: str
    references: tuple[str, ...] = ()  # pictures or files of embeddings that it was drawn with, as it records them


@dataclass(frozen=True)
class Generated:
    """What `ipa generate` did: pictures, times in seconds, memory in GiB (`timing.memory`)."""

    images: tuple[Drawn, ...]
    timings: Mapping[str, float]
    memory: Mapping[str, float]
    backend: str
    graph: Mapping[str, Any]
    device: str
    dtype: str
    model: str
    adapter: str | None
    prompt: str | None  # None: each picture has one of its own
    steps: int
    step_cache: str
    steps_saved: int  # of `steps`, those that the step cache makes cheaper
    references: tuple[str, ...] = field(default=())  # pictures and files of embeddings
    stdout: bytes | None = None  # the one picture of `--output -`
    gpus: int = 1  # that share each picture
    server: str | None = None  # the address of the one that drew, None: this process


@dataclass(frozen=True)
class Form:
    """How pictures are written: Pillow's name of the format (None: by the file's suffix), and quality, 1 to 100."""

    format: str | None = None
    quality: int | None = None


AS_NAMED = Form()


def plan_paths(
    settings: Settings, fields: Sequence[Mapping[str, Any]], force: bool, form: Form
) -> Sequence[Path | None]:
    """A path for every picture; None is stdout, which takes one alone."""
    if settings.output != STDOUT:
        return filenames.plan_paths(settings.output, fields, force, form.format)
    if len(fields) > 1:
        raise UsageError(f"stdout takes one picture, not {len(fields)}", "name files, such as --output cat.png")
    return [None]


def format_of(path: Path | None, form: Form) -> str:
    """Pillow's name of the format in which a picture is written."""
    return filenames.FORMATS[path.suffix.lower()] if path else form.format or "PNG"


def name_of(path: Path | None) -> str:
    """A picture's file in messages."""
    return path.name if path else "stdout"
