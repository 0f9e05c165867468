"""The uncompiled UNet: nothing to build; on a GPU replayed as a CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.backends.base import Capabilities, Denoiser, Report
from ipa_cli.backends.options import read_options
from ipa_cli.backends.requirements import COMMON, Requirements
from ipa_cli.errors import IpaError

if TYPE_CHECKING:
    from ipa_cli.unet.inputs import UNetInputs

CAPABILITIES = Capabilities(
    devices=("cpu", "cuda", "mps"),
    masks=True,
    regions=True,
    step_cache=True,
    control_residuals=True,
    offload=True,
    loras=True,
    batch=True,
)
REQUIREMENTS = Requirements(
    COMMON,
    install='pip install "torch>=2.3" "diffusers>=0.30" "transformers>=4.44"',
    imports="import torch, diffusers, transformers, accelerate",
)
# Both concern GPUs alone; on the CPU the UNet is called as it is.
PRESETS: dict[str, dict[str, Any]] = {"default": {"cuda_graph": True, "channels_last": True}}


def toolchain_problem() -> IpaError | None:
    """There is nothing to compile."""
    return None


def versions() -> dict[str, str]:
    """Nothing is kept, so nothing has a version."""
    return {}


def options(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """`cuda_graph` and `channels_last`, both true unless given; raises UsageError on anything else."""
    return read_options("eager", given, PRESETS)


def compile(unet: Any, example: UNetInputs, folder: Path, options: Mapping[str, Any], report: Report) -> None:
    """Nothing to do."""


def load(unet: Any, folder: Path | None, options: Mapping[str, Any]) -> Denoiser:
    """Call `unet` as it is; on a GPU as one CUDA graph per input shape, bit-equal."""
    import torch

    @torch.no_grad()
    def call(inputs: Any) -> Any:
        return unet(inputs)

    if unet.device.type != "cuda":
        return call
    if options["channels_last"]:
        unet.to(memory_format=torch.channels_last)
    if not options["cuda_graph"]:
        return call
    from ipa_cli.backends.cuda_graph import CudaGraphs

    return CudaGraphs(call, unet)
