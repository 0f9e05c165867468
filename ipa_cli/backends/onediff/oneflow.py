"""The UNet as a OneFlow graph, made by onediff and kept in a file. Never run by us on a real OneFlow.

No OneFlow build that onediff accepts is on PyPI (its 0.9.0 lacks what onediff 1.2.0 imports), and OneDiff recommends
nexfort on newer GPUs. This follows onediff 1.2.0's source, and its calls are tested against that package. The graph
is saved and loaded by our own calls: onediff's own only log a failed save, and load nothing without a word when a
file is missing. The scale is an argument of the graph; as an attribute of a processor, as in OneDiff's example, a
loaded graph would ignore it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.backends.base import Capabilities, Denoiser, Report
from ipa_cli.backends.options import check_sizes, read_options
from ipa_cli.backends.requirements import COMMON, Package, Requirements
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
BUILDS = "https://github.com/siliconflow/oneflow_releases/releases/expanded_assets/community_cu121"
# From onediff's source, because no build that onediff accepts is on PyPI.
REQUIREMENTS = Requirements(
    (
        Package("oneflow", ">=0.9.1", "PyPI's 0.9.0 lacks oneflow.framework.args_tree, which onediff needs"),
        Package("onediff", "==1.2.0"),
        *COMMON,
    ),
    install=f"pip install onediff==1.2.0 && pip install --pre oneflow -f {BUILDS}",
    imports="import oneflow.framework.args_tree, onediff.infer_compiler",
)
GRAPH = "unet.graph"
PRESETS: dict[str, dict[str, Any]] = {
    "onediff": {
        "options": {},  # fields of onediff's OneflowCompileOptions, such as {"kernel_enable_cuda_graph": true}
        "dynamic": None,  # [smallest, largest] height and width in pixels; None: the example's size alone
    }
}
RESERVED = ("dynamic", "graph_file", "graph_file_device", "use_graph")


def toolchain_problem() -> IpaError | None:
    """OneFlow brings its compiler."""
    return None


def versions() -> dict[str, str]:
    """What a graph depends on besides its options."""
    here = packages.installed(("onediff", "oneflow"))
    return {name: here[name] or "none" for name in ("torch", "diffusers", "onediff", "oneflow")}


def options(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """The options in full, see `PRESETS`; raises UsageError on an unknown name or an impossible value."""
    chosen = read_options("oneflow", given, PRESETS)
    check_sizes("oneflow", chosen["dynamic"])
    for name in chosen["options"]:
        if name in RESERVED:
            raise UsageError(f"oneflow's option {name} is set by ipa", 'leave it out; {"dynamic": [512, 1536]} is one')
    return chosen


def compile(unet: Any, example: UNetInputs, folder: Path, options: Mapping[str, Any], report: Report) -> None:
    """Build the graph for inputs like `example` and save it into `folder`.

    Raises UsageError for an option that onediff does not know, and IpaError when no file was written.
    """
    import torch

    from ipa_cli.backends.onediff.flatten_inputs import flatten_inputs

    graph = _graph(unet, options)
    report("OneFlow builds the graph")
    with torch.no_grad():
        graph(**flatten_inputs(example))
    report("saving the graph")
    graph.save_graph(str(folder / GRAPH))
    if not (folder / GRAPH).is_file() or not (folder / GRAPH).stat().st_size:
        raise IpaError("OneFlow built the graph and saved nothing", "use --backend nexfort, inductor or eager")


def load(unet: Any, folder: Path | None, options: Mapping[str, Any]) -> Denoiser:
    """The graph saved in `folder`, with the weights of `unet`.

    Raises IpaError when the file is missing.
    """
    assert folder is not None
    if not (folder / GRAPH).is_file():
        raise IpaError(f"{folder} holds no OneFlow graph", "ipa cache clear --backend oneflow, then compile again")
    import torch

    from ipa_cli.backends.onediff.flatten_inputs import flatten_inputs

    graph = _graph(unet, options)
    graph.load_graph(str(folder / GRAPH))

    @torch.no_grad()
    def call(inputs: UNetInputs) -> Tensor:
        return graph(**flatten_inputs(inputs)).clone()  # the graph's output is overwritten by the next call

    return call


class Attention:
    """A processor of `unet.attention` for OneFlow's tensors; `layer` is None where the picture attends to itself."""

    def __init__(self, layer: int | None):
        self.layer = layer

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, *_: Any, **__: Any) -> Any:
        from oneflow.nn.functional import scaled_dot_product_attention  # put there by onediff

        def split(states: Any) -> Any:
            batch, tokens, width = states.shape
            return states.reshape(batch, tokens, attn.heads, width // attn.heads).permute(0, 2, 1, 3)

        query = split(attn.to_q(hidden_states))
        if self.layer is None:
            key, value = split(attn.to_k(hidden_states)), split(attn.to_v(hidden_states))
            out = scaled_dot_product_attention(query, key, value)
        else:
            context = encoder_hidden_states
            key, value = context["text"][self.layer][0], context["text"][self.layer][1]
            out = scaled_dot_product_attention(query, key, value)
            for adapter, image in enumerate(context["image"]):
                key, value = image[self.layer][0], image[self.layer][1]
                weight = context["scale"][adapter, self.layer].to(out.dtype)
                out = out + weight * scaled_dot_product_attention(query, key, value)
        batch, heads, tokens, width = out.shape
        return attn.to_out[0](out.permute(0, 2, 1, 3).reshape(batch, tokens, heads * width))


def _graph(unet: Any, options: Mapping[str, Any]) -> Any:
    from onediff.infer_compiler import OneflowCompileOptions
    from onediff.infer_compiler import compile as onediff_compile

    from ipa_cli.backends.onediff.flatten_inputs import FlatInputsUNet

    known = {field.name for field in dataclasses.fields(OneflowCompileOptions)}
    for name in options["options"]:
        if name not in known:
            raise UsageError(f"onediff has no option {name!r} for OneFlow", f"known: {', '.join(sorted(known))}")
    _register_classes()
    given = OneflowCompileOptions(dynamic=options["dynamic"] is not None, **options["options"])
    return onediff_compile(FlatInputsUNet(unet), backend="oneflow", options=given)


@cache
def _register_classes() -> None:
    """Tell onediff what our own classes are in OneFlow; its way of finding out fails for packages like this one."""
    import oneflow
    from onediff.infer_compiler.backends.oneflow.transform import register, torch2oflow

    from ipa_cli.backends.onediff.flatten_inputs import FlatInputsUNet
    from ipa_cli.unet.attention import CrossAttention, SelfAttention

    # Of what holds tensors, OneFlow's graphs look into plain tuples, lists and dicts alone.
    twin = type("FlatInputsUNet", (oneflow.nn.Module,), {"forward": FlatInputsUNet.forward, "context": dict})
    register(torch2oflow_class_map={FlatInputsUNet: twin})
    torch2oflow.register(CrossAttention, lambda processor, verbose=False: Attention(processor.layer))
    torch2oflow.register(SelfAttention, lambda processor, verbose=False: Attention(None))
