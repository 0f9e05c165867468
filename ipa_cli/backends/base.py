"""The contract of a backend: what it states about itself, and how it turns a UNet into a `Denoiser`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ipa_cli.backends.requirements import Requirements
from ipa_cli.errors import IpaError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ipa_cli.unet.inputs import ControlInputs, UNetInputs

    Inputs = UNetInputs | ControlInputs

Report = Callable[[str], None]
# Pixels a side that backends count for each latent pixel, in the option `dynamic` and in messages.
LATENT_FACTOR = 8


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do; other code asks this and never looks at a backend's name. The defaults deny."""

    devices: tuple[str, ...]  # device types as torch names them
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")  # of the UNet
    compiles: bool = False  # `compile` writes a graph that the cache keeps
    code_folders: tuple[str, ...] = ()  # of `ipa_cli`: their code shapes the graphs, so its digest is in their keys
    load_options: tuple[str, ...] = ()  # options that `load` alone reads, so that they are in no key
    masks: bool = False
    regions: bool = False  # prompts for parts of the picture, `Context.regions`
    step_cache: bool = False  # gives and takes deep states, `UNetInputs.deep`
    control_residuals: bool = False  # what a ControlNet adds, `UNetInputs.control`
    fp8: tuple[int, int] | None = None  # from which CUDA compute capability on; has the option `precision`
    offload: bool = False  # weights may move between calls
    loras: bool = False  # weights that change in place between calls count from the next call on
    batch: bool = False  # one call may serve several pictures
    decoders: tuple[str, ...] = ()  # device types for which it compiles the decoder of a VAE too
    decoder_options: tuple[str, ...] = ()  # options that count for that
    tunes: tuple[str, ...] = ()  # device types on which it measures choices of its kernels; has the option `tuning`
    dynamic_sizes: bool = False  # one graph may serve a range of sizes; has the option `dynamic`


class Denoiser(Protocol):
    """One call of a network, what it gives being the caller's own.

    A UNet takes `UNetInputs` and gives (B, channels, h, w) of noise, a ControlNet `ControlInputs` and
    `ControlResiduals`. Backends without the capability `control_residuals` are never handed a ControlNet.
    """

    def __call__(self, inputs: Any, /) -> Any: ...


class Backend(Protocol):
    """What a module named in `MODULES` offers; importing it imports no torch.

    `unet` is a UNet or a ControlNet.
    """

    CAPABILITIES: Capabilities
    REQUIREMENTS: Requirements
    PRESETS: Mapping[str, Mapping[str, Any]]  # options by the name of a preset; the first is the default

    def toolchain_problem(self) -> IpaError | None:
        """Why graphs cannot be built here, though the packages are installed; None when they can."""

    def versions(self) -> dict[str, str]:
        """Versions of other people's code that a graph depends on: part of its key."""

    def options(self, given: str | Mapping[str, Any] | None) -> dict[str, Any]:
        """Complete options from a preset's name, JSON or a mapping; raises UsageError on an unknown one."""

    def compile(
        self, unet: Any, example: Inputs, folder: Path, options: Mapping[str, Any], report: Report
    ) -> Sequence[str] | None:
        """Build the graph for inputs like `example` and write its files into the empty `folder`.

        Returns what the user is warned of, if anything.
        """

    def load(self, unet: Any, folder: Path | None, options: Mapping[str, Any]) -> Denoiser:
        """Open what `compile` wrote, with the weights of `unet`. `folder` is a checked copy that is removed afterwards.

        It is None for a backend that compiles nothing.
        """


@dataclass(frozen=True)
class Measured:
    """A kernel's choices with the milliseconds of a step, None where one does not run; the fastest as `choice`."""

    kernel: str
    measured: list[tuple[list[int] | None, float | None]]
    choice: list[int] | None
    is_first: bool  # what is used untuned


class TunableBackend(Protocol):
    """What a module offers that has `Capabilities.tunes`."""

    def tune(self, device: torch.device, dtype: torch.dtype, report: Report) -> list[Measured]:
        """Measure the choices on `device`. Raises IpaError where there is nothing to tune."""

    def check_tuning(self, given: Mapping[str, Any], capability: str) -> None:
        """Raise UsageError for choices that there are not for a compute capability such as "8.6"."""


class DecoderBackend(Protocol):
    """What a module offers that has `Capabilities.decoders`."""

    def compile_decoder(
        self, vae: Any, latents: Tensor, folder: Path, options: Mapping[str, Any], report: Report
    ) -> Sequence[str] | None:
        """Build the graph of `AutoencoderKL.decode` for latents like these, as `compile` does."""

    def load_decoder(self, vae: Any, folder: Path) -> Callable[[Tensor], Tensor]:
        """Open what `compile_decoder` wrote, with the weights of `vae`, as `load` does."""


def check_fp8(device: torch.device, capability: tuple[int, int] | None) -> None:
    """Raise UsageError unless `device` is a GPU of at least this CUDA compute capability."""
    import torch

    if capability is None or device.type != "cuda" or torch.cuda.get_device_capability(device) < capability:
        needed = ".".join(map(str, capability or ()))
        raise UsageError(f"fp8 needs a GPU of compute capability {needed} or newer", "leave out --precision fp8")
