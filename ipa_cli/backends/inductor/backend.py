"""The UNet's parts compiled ahead of time by AOTInductor, without weights; on a GPU inside one CUDA graph.

`compilation` traces each kind of part (see `regions`) and has processes of their own compile them side by side;
`loading` opens the packages, which runs no compiler, and calls them with the weights of the UNet's modules.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.backends.base import Capabilities, Denoiser, Measured, Report, check_fp8
from ipa_cli.backends.inductor import tuning, worker_pool
from ipa_cli.backends.inductor.kernel_options import CONVOLUTIONS, KERNELS, LINEAR
from ipa_cli.backends.options import check_sizes, check_tokens, read_options
from ipa_cli.backends.requirements import COMMON, Package, Requirements
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.hardware import packages

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ipa_cli.unet.inputs import ControlInputs, UNetInputs

CAPABILITIES = Capabilities(
    devices=("cpu", "cuda"),
    compiles=True,
    code_folders=("backends/inductor", "models/vae", "networks", "unet"),
    load_options=("cuda_graph",),
    masks=True,
    step_cache=True,
    regions=True,
    control_residuals=True,
    fp8=(8, 9),
    loras=True,
    batch=True,
    decoders=("cuda",),
    decoder_options=("inductor",),
    tunes=("cuda",),
    dynamic_sizes=True,
)
REQUIREMENTS = Requirements(
    # Since 2.8 its loader opens a package single-threaded, which a CUDA graph needs, on a given device.
    (Package("torch", ">=2.8"), *COMMON[1:]),
    install='pip install --upgrade "torch>=2.8" "diffusers>=0.30" "transformers>=4.44"',
    imports="import torch, diffusers, torch._inductor",
)
PRECISIONS = ("half", "fp8")
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {
        "cuda_graph": True,
        "kernels": list(KERNELS),  # Triton kernels of our own, where they fit
        "fuse_upsample": True,  # upsampling and its convolution as one sub-pixel convolution
        "precision": "half",  # or "fp8" for the layers below
        "fp8_layers": ["attn1.to_qkv", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"],  # convolutions on Hopper alone
        "dynamic": None,  # [smallest, largest] height and width in pixels; None: the example's size alone
        "text": None,  # [smallest, largest] number of text tokens, such as [77, 308]; None: the example's alone
        # Choices for kernels in place of the table's, such as {"cross_attention": [64, 64, 4]}; None: those that
        # `ipa bench --tune` kept, if any.
        "tuning": None,
        "inductor": {},  # further settings of torch._inductor.config, by name
    }
}


def toolchain_problem() -> IpaError | None:
    """Whether the C++ compiler, or on a GPU Triton, is missing."""
    if not worker_pool.compiler_works():
        return IpaError(
            f"there is no working C++ compiler ({worker_pool.compiler()})",
            "install g++ (apt install g++) or set CXX to a compiler; or choose --backend eager",
        )
    import torch

    if torch.cuda.is_available() and importlib.util.find_spec("triton") is None:
        return IpaError("Triton is missing", "type pip install triton, or choose --backend eager")
    return None


def versions() -> dict[str, str]:
    """The packages, and the CPU's capability as torch sees it, that the generated code depends on."""
    import torch

    here = packages.installed()
    found = {name: here[name] or "none" for name in ("torch", "triton", "diffusers")}
    return {**found, "cpu": torch.backends.cpu.get_cpu_capability()}


def options(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """The options in full; raises UsageError on an unknown one or an impossible value."""
    chosen = read_options("inductor", given, PRESETS)
    if chosen["precision"] not in PRECISIONS:
        raise UsageError(f"inductor has no precision {chosen['precision']!r}", f"known: {', '.join(PRECISIONS)}")
    for name, known in (("fp8_layers", (*LINEAR, *CONVOLUTIONS)), ("kernels", KERNELS)):
        strange = [word for word in chosen[name] if word not in known]
        if strange:
            raise UsageError(f"inductor's option {name} has {strange[0]!r}", f"known: {', '.join(known)}")
    check_sizes("inductor", chosen["dynamic"])
    check_tokens("inductor", chosen["text"])
    tuning.check({} if chosen["tuning"] is None else chosen["tuning"])
    _check_settings(chosen["inductor"])
    return chosen


def _check_settings(given: Mapping[str, Any]) -> None:
    if not given:
        return
    from torch._inductor import config

    known = config.get_config_copy()
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UsageError(
            f"torch._inductor.config has no setting {unknown[0]!r}", "see python -m pydoc torch._inductor.config"
        )


def compile(
    unet: Any, example: UNetInputs | ControlInputs, folder: Path, options: Mapping[str, Any], report: Report
) -> list[str]:
    """See `compilation.compile`. Raises IpaError when the toolchain is missing, UsageError without fp8 on this GPU."""
    problem = toolchain_problem()
    if problem is not None:
        raise problem
    if options["precision"] == "fp8":
        check_fp8(unet.device, CAPABILITIES.fp8)
    from ipa_cli.backends.inductor import compilation

    return compilation.compile(unet, example, folder, options, report)


def load(unet: Any, folder: Path | None, options: Mapping[str, Any]) -> Denoiser:
    """See `loading.load`."""
    from ipa_cli.backends.inductor import loading

    assert folder is not None
    return loading.load(unet, folder, options)


def tune(device: torch.device, dtype: torch.dtype, report: Report) -> list[Measured]:
    """See `tuner.tune`. Raises UsageError for a dtype that our kernels do not take."""
    from ipa_cli.backends.inductor import tuner

    return tuner.tune(device, dtype, report)


def check_tuning(given: Mapping[str, Any], capability: str) -> None:
    """See `TunableBackend`."""
    major, _, minor = capability.partition(".")
    tuning.chosen((int(major), int(minor)), given)


def compile_decoder(vae: Any, latents: Tensor, folder: Path, options: Mapping[str, Any], report: Report) -> list[str]:
    """See `decoder.compile`."""
    import torch

    from ipa_cli.backends.inductor import decoder, decoder_blocks

    card = tuning.card(torch.cuda.get_device_capability(vae.device))
    if not card.decoder or not decoder_blocks.supports(vae.decoder):
        return decoder.compile(vae, latents, folder, options, report)
    try:
        return decoder.compile(vae, latents, folder, options, report, fused=True)
    except IpaError as error:  # such as a kernel that this version of Triton does not compile
        warning = f"the decoder is compiled without our kernels: {error.message}"
        return [warning, *decoder.compile(vae, latents, folder, options, report)]


def load_decoder(vae: Any, folder: Path) -> Callable[[Tensor], Tensor]:
    """See `decoder.load`."""
    from ipa_cli.backends.inductor import decoder

    return decoder.load(vae, folder)
