"""The backends: each turns a UNet with IP-Adapter into a `Denoiser`, from its inputs to the noise."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ipa_cli.errors import IpaError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.attention import UNetInputs

Report = Callable[[str], None]

MODULES = {
    "eager": "ipa_cli.backends.eager",
    "inductor": "ipa_cli.backends.inductor",
    "nexfort": "ipa_cli.backends.nexfort",
    "oneflow": "ipa_cli.backends.oneflow",
}


# Our own files, below the package, whose text decides what a backend's graphs compute.
CODE = {
    "inductor": (
        "attention.py",
        "backends/blocks.py",
        "backends/convs.py",
        "backends/derived.py",
        "backends/eight_bit.py",
        "backends/gates.py",
        "backends/inductor.py",
        "backends/inductor_worker.py",
        "backends/kernels.py",
        "backends/launching.py",
        "backends/norms.py",
        "backends/parts.py",
        "backends/regions.py",
    ),
    "nexfort": ("attention.py", "backends/flat.py", "backends/nexfort.py"),
    "oneflow": ("attention.py", "backends/flat.py", "backends/oneflow.py"),
}


class Denoiser(Protocol):
    """One UNet call: (B, 4, h, w) of noise, a tensor of the caller's own."""

    def __call__(self, inputs: UNetInputs, /) -> Tensor: ...


class Backend(Protocol):
    """What a module named in `MODULES` offers."""

    compiles: bool  # whether there is something to build and keep; `compile` is called only then

    def missing(self, environment: Any) -> IpaError | None:
        """Why this backend cannot run here, with what to type; None when it can."""

    def missing_to_compile(self, environment: Any) -> IpaError | None:
        """Why this backend cannot build a graph here (a finished one may still load); None when it can."""

    def versions(self) -> dict[str, str]:
        """Versions of other people's code that the graph depends on: part of its key, as is `code`."""

    def options(self, given: str | Mapping[str, Any] | None) -> dict[str, Any]:
        """Complete options from a preset's name, JSON or a mapping; raises UsageError on an unknown one."""

    def compile(self, unet: Any, example: UNetInputs, folder: Path, options: Mapping[str, Any], report: Report) -> None:
        """Build the graph for inputs like `example` and write its files into the empty `folder`."""

    def load(self, unet: Any, folder: Path | None, options: Mapping[str, Any]) -> Denoiser:
        """Open what `compile` wrote: a checked copy that goes afterwards; the weights stay those of `unet`."""


def get(name: str) -> Backend:
    """The backend called `name`; raises UsageError when there is none."""
    if name not in MODULES:
        raise UsageError(f"there is no backend '{name}'", f"choose one of {', '.join(MODULES)}")
    return cast(Backend, importlib.import_module(MODULES[name]))


@lru_cache
def code(name: str) -> str:
    """A digest of our own part in a backend's graphs; nothing for one that keeps none."""
    here = Path(__file__).parents[1]
    text = b"".join((here / file).read_bytes() for file in CODE.get(name, ()))
    return hashlib.sha256(text).hexdigest()[:16] if text else ""


def read_options(
    backend: str, given: str | Mapping[str, Any] | None, presets: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Options of `backend` from a preset's name, JSON text or a mapping, on top of its first preset.

    A mapping may name the preset it starts from as "preset". Raises UsageError for an unknown preset or option
    and for a value that is not of the kind of its default (a default of None takes any).
    """
    default = next(iter(presets))
    if given is None or given == "":
        given = {}
    if isinstance(given, str) and not given.lstrip().startswith("{"):
        given = {"preset": given}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"the compile options are not JSON: {error}",
                f"type a preset ({', '.join(presets)}) or JSON such as '{json.dumps({'preset': default})}'",
            ) from None
    if not isinstance(given, Mapping):
        raise UsageError("the compile options are not a JSON object", f"presets: {', '.join(presets)}")
    changes = dict(given)
    name = changes.pop("preset", default)
    if not isinstance(name, str) or name not in presets:
        raise UsageError(f"{backend} has no preset {name!r}", f"presets: {', '.join(presets)}")
    options = dict(presets[name])
    for key, value in changes.items():
        if key not in options:
            raise UsageError(f"{backend} has no option {key!r}", f"known: preset, {', '.join(options)}")
        known = options[key]
        if known is not None and type(value) is not type(known):
            raise UsageError(
                f"{backend}'s option {key} is {value!r}, not {type(known).__name__}",
                f"for example {json.dumps({key: known})}",
            )
        options[key] = value
    return options


def check_sizes(backend: str, sizes: Any) -> None:
    """Raise UsageError unless the option `dynamic` is None or the smallest and largest size in pixels."""
    if sizes is not None and not (
        isinstance(sizes, list | tuple)
        and len(sizes) == 2
        and all(type(size) is int and size % 8 == 0 for size in sizes)
        and 64 <= sizes[0] < sizes[1] <= 8192
    ):
        raise UsageError(
            f"{backend}'s option dynamic is {sizes!r}",
            "give the smallest and largest size in pixels, multiples of 8 from 64 to 8192, such as [256, 1536]",
        )
