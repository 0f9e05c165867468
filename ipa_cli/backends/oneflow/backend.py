"""The UNet as a graph of OneFlow 0.9.0, on the CPU.

onediff's way to OneFlow needs builds that are no longer published: onediff 1.2.0 imports `oneflow.framework.args_tree`,
which the newest OneFlow of PyPI lacks, and onediff 0.9 has no compiler. So the UNet is converted here. That OneFlow
holds GPU code for compute capability 6.0 to 8.6 and no PTX, so nothing for newer generations, and no GPU that it has
code for has been tried: only the CPU is stated. It multiplies matrices in float32 alone there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.backends.base import Capabilities, Denoiser, Report
from ipa_cli.backends.options import read_options
from ipa_cli.backends.requirements import COMMON, Package, Requirements
from ipa_cli.errors import IpaError
from ipa_cli.hardware import packages

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.unet.inputs import UNetInputs

CAPABILITIES = Capabilities(
    devices=("cpu",),
    dtypes=("float32",),
    compiles=True,
    code_folders=("backends/oneflow", "unet", "networks"),
    masks=True,
    loras=True,
    batch=True,
)
REQUIREMENTS = Requirements(
    (
        Package("oneflow", "==0.9.0"),
        Package("nvidia-cublas-cu11", ">=11.10,<12"),  # OneFlow links both, and finds them where pip puts them
        Package("nvidia-cudnn-cu11", ">=8.5,<9"),
        Package("numpy", "<2", "OneFlow 0.9.0 stops while it is imported"),
        *COMMON,
    ),
    install="in an environment of its own, with Python 3.10, from a clone of ipa: "
    'pip install -c constraints-oneflow.txt ".[oneflow]"',
    imports="import oneflow, torch",
    newest_python=(3, 10),
)
PRESETS: dict[str, dict[str, Any]] = {"default": {}}


def toolchain_problem() -> IpaError | None:
    """OneFlow brings its compiler."""
    return None


def versions() -> dict[str, str]:
    """The package that builds and runs the graph."""
    return {"oneflow": packages.installed(("oneflow",))["oneflow"] or "none"}


def options(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """There are none; raises UsageError on anything else."""
    return read_options("oneflow", given, PRESETS)


def compile(unet: Any, example: UNetInputs, folder: Path, options: Mapping[str, Any], report: Report) -> None:
    """Build the graph for inputs like `example` and write it into the empty `folder`."""
    from torch.utils import _pytree as pytree

    _import_oneflow()
    from ipa_cli.backends.oneflow import graph
    from ipa_cli.backends.oneflow.conversion import to_oneflow

    report("OneFlow builds the graph")
    tensors, structure = pytree.tree_flatten(example)
    job = graph.build(to_oneflow(unet), lambda lazy: pytree.tree_unflatten(lazy, structure), tensors)
    (folder / graph.FILE).write_bytes(job)


def load(unet: Any, folder: Path | None, options: Mapping[str, Any]) -> Denoiser:
    """The graph in `folder`, which reads the weights of `unet` where they are."""
    import torch

    _import_oneflow()
    from ipa_cli.backends.oneflow.graph import FILE, Graph
    from ipa_cli.unet.inputs import tensors

    assert folder is not None
    unet.to(memory_format=torch.contiguous_format)  # OneFlow knows no other
    graph = Graph((folder / FILE).read_bytes(), dict(unet.named_parameters()))

    def call(inputs: UNetInputs) -> Tensor:
        return graph(tensors(inputs))

    return call


def _import_oneflow() -> None:
    """Import OneFlow without its native code's words on stderr: no GPU, no InfiniBand. Errors are exceptions."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    # oneDNN adds and multiplies tensors by slow code: a call took 1.1 to 1.5 s of processor time, without it 0.4 s.
    os.environ.setdefault("ONEFLOW_ENABLE_ONEDNN_OPTS", "0")
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            import oneflow  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)
