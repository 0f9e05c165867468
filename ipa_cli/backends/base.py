"""What a backend is: it turns a UNet with IP-Adapter into a `Denoiser`, from its inputs to the noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ipa_cli.errors import IpaError

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.unet.inputs import UNetInputs

Report = Callable[[str], None]


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
