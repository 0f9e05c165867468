"""The UNet compiled by nexfort through onediff, with the options of OneDiff's own IP-Adapter example.

nexfort is torch.compile with OneDiff's passes and kernels: a process always traces the UNet again, and what it keeps
on disk is inductor's caches of finished code and Triton's of kernels. They lie where TORCHINDUCTOR_CACHE_DIR and
TRITON_CACHE_DIR say. torch reads both when it first needs them, keeps paths made from them, and its compile workers
inherit them; so they are set once, before onediff is imported, to a folder of this process alone. `compile` copies
the folder into the graph's own, `load` copies it back: the graph on disk is never written to. (0.1.dev262 does not
know the NEXFORT_GRAPH_CACHE of OneDiff's documentation; there "cache-all" in the mode has the code kept.)
"""

from __future__ import annotations

import atexit
import copy
import os
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.backends.base import Capabilities, Denoiser, Report
from ipa_cli.backends.options import check_sizes, read_options
from ipa_cli.backends.requirements import Package, Requirements
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.hardware import packages

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.unet.inputs import UNetInputs

CAPABILITIES = Capabilities(
    devices=("cpu", "cuda"),
    compiles=True,
    code_folders=("backends/onediff", "unet"),
    batch=True,
    dynamic_sizes=True,
)
# The one set of versions that was seen working.
REQUIREMENTS = Requirements(
    (
        Package("nexfort", "==0.1.dev262", "0.1.dev322 and 0.1.dev330 lack nexfort.inductor.codegen"),
        Package("torch", "==2.3.1"),
        Package("onediff", "==1.2.0"),
        Package("diffusers", ">=0.30,<0.31"),
        Package("transformers", ">=4.44,<4.45"),
        Package("numpy", "<2"),
        Package("huggingface_hub", "<0.26"),
    ),
    install="in an environment of its own, with Python 3.10 or 3.11, from a clone of ipa: "
    'pip install -c constraints-nexfort.txt ".[nexfort]"',
    imports="import torch, nexfort, nexfort.inductor.codegen, onediff.infer_compiler",
    newest_python=(3, 11),
)
KEEPS = "cache-all"
LAYOUTS = ("channels_last", "contiguous_format", "preserve_format")
PRESETS: dict[str, dict[str, Any]] = {
    "onediff": {
        "mode": f"cudagraphs:benchmark:max-autotune:low-precision:{KEEPS}",
        "memory_format": "channels_last",
        "options": {
            "inductor.optimize_linear_epilogue": False,
            "overrides.conv_benchmark": True,
            "overrides.matmul_allow_tf32": True,
        },
        "dynamic": None,  # [smallest, largest] height and width in pixels; None: the example's size alone
    }
}


def toolchain_problem() -> IpaError | None:
    """Whether a C++ compiler is missing; loading needs it too, when torch looks at the processor."""
    compiler = os.environ.get("CXX", "g++")  # as torch._inductor.config does
    if shutil.which(compiler) is not None:
        return None
    return IpaError(f"there is no C++ compiler '{compiler}'", "install one (`apt install g++`), or let CXX name it")


def versions() -> dict[str, str]:
    """The packages that the generated code depends on."""
    here = packages.installed(("nexfort", "onediff"))
    return {name: here[name] or "none" for name in ("torch", "triton", "diffusers", "nexfort", "onediff")}


def options(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """The options in full: `mode`, `memory_format` and `options` as in OneDiff's documentation, see `PRESETS`.

    The mode always ends in cache-all, without which nexfort keeps no finished code. Raises UsageError on an unknown
    name or an impossible value; names within `options` are nexfort's own and checked by `compile`.
    """
    chosen = read_options("nexfort", given, PRESETS)
    if KEEPS not in chosen["mode"].split(":"):
        chosen["mode"] = ":".join(filter(None, (chosen["mode"], KEEPS)))
    if chosen["memory_format"] not in LAYOUTS:
        raise UsageError(
            f"nexfort's option memory_format is {chosen['memory_format']!r}", f"choose one of {', '.join(LAYOUTS)}"
        )
    check_sizes("nexfort", chosen["dynamic"])
    return chosen


def compile(unet: Any, example: UNetInputs, folder: Path, options: Mapping[str, Any], report: Report) -> None:
    """Compile `unet` for inputs like `example` and copy the caches that made into `folder`.

    Raises UsageError for an option that nexfort does not know; warns when it kept no finished code.
    """
    caches = _caches()
    _check(options)
    report("nexfort traces the UNet, compiles and measures kernels")
    denoiser = _denoiser(unet, options)
    denoiser(example)
    if not any((caches / "fxgraph").glob("*/*/*")):  # minutes of work that serve this process at least
        warnings.warn(
            "nexfort kept no finished code: later processes will compile again, with its kernels", stacklevel=2
        )
    shutil.copytree(caches, folder / "cache", ignore=shutil.ignore_patterns("locks", "__pycache__", "*.lock"))
    _compiled[unet] = dict(options), denoiser


def load(unet: Any, folder: Path | None, options: Mapping[str, Any]) -> Denoiser:
    """The UNet traced again at its first call and run by the code in `folder`; after `compile` as it is in memory.

    Warns when a call finds no code for its shapes and has to compile.
    """
    caches = _caches()
    made_with, denoiser = _compiled.pop(unet, (None, None))
    if denoiser is not None and made_with == options:
        return denoiser
    assert folder is not None
    shutil.copytree(folder / "cache", caches, dirs_exist_ok=True)
    _repoint(caches)
    run = _denoiser(unet, options)
    from torch._dynamo.utils import counters

    def call(inputs: UNetInputs) -> Tensor:
        before = counters["inductor"]["fxgraph_cache_miss"]
        noise = run(inputs)
        if counters["inductor"]["fxgraph_cache_miss"] > before:
            warnings.warn("the graph in the cache does not cover this call: nexfort compiled it again", stacklevel=2)
        return noise

    return call


# What `compile` made and `load` is about to ask for: tracing takes a minute, and is done already.
_compiled: dict[Any, tuple[dict[str, Any], Denoiser]] = {}


@cache
def _caches() -> Path:
    """The folder of this process in which inductor and Triton keep what they make; gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="ipa-nexfort-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    return folder


def _repoint(caches: Path) -> None:
    """Let finished graphs find their code in `caches`: torch 2.3 notes the path where it was made."""
    from torch._inductor.codecache import get_path

    for path in (caches / "fxgraph").glob("*/*/*"):
        # torch unpickles the same file a moment later; the store has checked its digest.
        graph = pickle.loads(path.read_bytes())
        graph.artifact_path = get_path(graph.cache_key, "py")[2]
        path.write_bytes(pickle.dumps(graph))


def _arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """What `nexfort_compile` takes; a copy of its own, because onediff may change it."""
    dynamic = options["dynamic"] is not None or None
    return {"mode": options["mode"], "options": copy.deepcopy(dict(options["options"])), "dynamic": dynamic}


def _check(options: Mapping[str, Any]) -> None:
    from nexfort.fx_compiler import apply_mode, apply_options

    given = _arguments(options)
    try:
        apply_mode({}, given["mode"], model=None)
        apply_options({}, given["options"])
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"nexfort does not take these options: {error}", "see OneDiff's page on nexfort") from None


def _denoiser(unet: Any, options: Mapping[str, Any]) -> Denoiser:
    import torch
    from nexfort.utils.memory_format import apply_memory_format
    from onediff.infer_compiler import compile as onediff_compile

    from ipa_cli.backends.onediff.flatten_inputs import FlatInputsUNet, flatten_inputs

    apply_memory_format(unet, getattr(torch, options["memory_format"]))
    compiled = onediff_compile(FlatInputsUNet(unet), backend="nexfort", options=_arguments(options))

    @torch.no_grad()
    def call(inputs: UNetInputs) -> Tensor:
        return compiled(**flatten_inputs(inputs)).clone()  # a CUDA graph's output is overwritten by the next call

    return call
