"""A stand-in for OneFlow that computes with torch, so that onediff's real code runs around our backend.

No OneFlow that onediff accepts can be installed from PyPI. What is proved here: our calls go through onediff 1.2.0,
our classes are converted, lists and the scale arrive as arguments, the file is written and read. What is not: that
OneFlow's compiler takes the graph. `python -m tests.backends.onediff.oneflow_standin FOLDER` saves and loads a tiny
UNet's graph and prints what it saw as JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F


class ArgsTree:
    """Nested tuples, lists and dicts of exactly these types; named tuples are leaves, as in OneFlow."""

    def __init__(self, io_args: Any, gen_name: bool = False, tensor_type: Any = None):
        self.io_args = io_args

    def iter_nodes(self) -> Any:
        stack = [self.io_args]
        while stack:
            node = stack.pop()
            stack += list(node.values()) if type(node) is dict else node if type(node) in (tuple, list) else ()
            yield node

    def map_leaf(self, function: Any) -> Any:
        def mapped(node: Any) -> Any:
            if type(node) in (tuple, list):
                return type(node)(mapped(child) for child in node)
            return {k: mapped(v) for k, v in node.items()} if type(node) is dict else function(node)

        return mapped(self.io_args)


class Graph:
    """`oneflow.nn.Graph` as far as onediff's `OneflowGraph` uses it."""

    loads: list[Any] = []  # noqa: RUF012
    twins: list[Any] = []  # noqa: RUF012

    def __init__(self, enable_get_runtime_state_dict: bool = False):
        nothing = lambda *_: None  # noqa: E731
        self.config = SimpleNamespace(allow_fuse_add_to_output=nothing)
        self._dynamic_input_graph_cache = SimpleNamespace(set_cache_size=nothing, enable_shared=nothing)
        self._c_nn_graph = SimpleNamespace(get_runtime_var_states=lambda: ((), ()))
        self._blocks: dict[str, Any] = {}
        self.is_compiled = False

    @staticmethod
    def with_dynamic_input_shape() -> Any:
        return lambda init: init

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.is_compiled = True
        self.twins.append(self.model)  # type: ignore[attr-defined]
        return self.build(*args, **kwargs)  # type: ignore[attr-defined]

    def runtime_state_dict(self) -> dict[str, Any]:
        assert self.is_compiled
        return {"graph": {"outputs_original": ()}}

    def load_runtime_state_dict(self, state_dict: Any, warmup_with_run: bool = True) -> None:
        self.is_compiled = True
        self.loads.append(state_dict)


def fused_attention(
    query: Any, query_layout: str, query_head_size: int, key: Any, key_layout: str, value: Any, value_layout: str,
    output_layout: str, causal: bool, scale: float | None = None,
) -> Any:  # fmt: skip
    """`oneflow._C.fused_multi_head_attention_inference_v2` in the layouts that onediff asks for."""
    assert (query_layout, key_layout, value_layout, output_layout) == ("BHMK", "BHMK", "BHMK", "BM(HK)")
    return F.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale).transpose(1, 2).flatten(2)


def save(thing: Any, path: str) -> None:
    Path(path).write_bytes(pickle.dumps(thing))


def load(path: str) -> Any:
    return pickle.loads(Path(path).read_bytes())


class Tensor(torch.Tensor):
    """OneFlow's spelling of one argument."""

    def unflatten(self, dim: int, shape: Any) -> Any:
        return torch.Tensor.unflatten(self, dim, shape)


OWN: dict[str, dict[str, Any]] = {
    "oneflow": {"save": save, "load": load, "Tensor": Tensor, "__version__": "0.9.1"},
    "oneflow._C": {
        "fused_multi_head_attention_inference_v2": fused_attention,
        "broadcast_dim_like": lambda x, like, dim: x.expand(like.shape[dim]),
    },
    "oneflow.nn": {"Graph": Graph},
    "oneflow.nn.functional": {
        "interpolate_like": lambda x, like, **how: F.interpolate(x, size=like.shape[-2:], **how),
    },
    "oneflow.framework": {},
    "oneflow.framework.args_tree": {"ArgsTree": ArgsTree, "_is_dataclass": lambda value: False},
    "oneflow.mock_torch": {"enable": lambda **_: contextlib.nullcontext()},
    "oneflow.mock_torch.mock_utils": {"MockEnableDisableMixin": SimpleNamespace(hazard_list=[])},
    "oneflow.mock_torch.mock_importer": {"_importer": SimpleNamespace(delete_list=[], enable=True)},
    "oneflow.utils.tensor": {
        "from_torch": lambda tensor: tensor.as_subclass(Tensor),
        "to_torch": lambda tensor: tensor.as_subclass(torch.Tensor),
    },
}


class Module(ModuleType):
    """`oneflow.x`: our own attributes first, then those of `torch.x`; setting one leaves torch alone."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        full = f"{self.__name__}.{name}"
        if full in OWN:
            return importlib.import_module(full)
        value = getattr(importlib.import_module(self.__name__.replace("oneflow", "torch", 1)), name)
        return importlib.import_module(full) if isinstance(value, ModuleType) else value


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.split(".")[0] == "oneflow":
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(OWN.get(module.__name__, {}))


def keep_twins_apart() -> None:
    """OneFlow's modules are not torch's and end up in `__dict__`; ours are, and torch would file them elsewhere."""
    from onediff.infer_compiler.backends.oneflow.dual_module import DualModule

    original = DualModule.__setattr__

    def set_attribute(self: Any, name: str, value: Any) -> None:
        (object.__setattr__ if name == "_oneflow_module" else original)(self, name, value)

    DualModule.__setattr__ = set_attribute


def main(folder: Path, breakage: str = "") -> dict[str, Any]:
    """Compile into `folder`, load from it in new objects, and compare with eager at three scales.

    `breakage` is "save nothing" or "unknown option"; then the answer is the error.
    """
    if breakage == "save nothing":
        OWN["oneflow"]["save"] = lambda thing, path: None
    sys.meta_path.insert(0, Finder())
    import diffusers.models.unets.unet_2d_condition  # noqa: F401  (onediff registers its twins only then)

    from ipa_cli.backends.onediff import oneflow
    from ipa_cli.errors import IpaError
    from tests import unets

    keep_twins_apart()
    torch.set_num_threads(2)
    unet, adapters = unets.tiny(adapters=2)
    example = unets.example(unet, adapters)
    option = "no_such" if breakage == "unknown option" else "max_cached_graph_size"
    options = oneflow.options({"options": {option: 3}})
    try:
        oneflow.compile(unet, example, folder, options, lambda text: None)
    except IpaError as error:
        return {"error": error.message}
    denoiser = oneflow.load(unet, folder, options)
    errors, effects = [], []
    for scale in (1.0, 0.0, 0.5):
        context = example.context._replace(scale=torch.full_like(example.context.scale, scale))
        inputs = replace(example, context=context)
        with torch.no_grad():
            expected = unet(inputs)
            everywhere = unet(example)
        errors.append(unets.difference(denoiser(inputs), expected))
        effects.append(unets.difference(expected, everywhere))
    twin = Graph.twins[-1]
    processors = {type(part.processor).__module__ for part in twin.modules() if hasattr(part, "processor")}
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "errors": errors,
        "effects": effects,
        "loads": len(Graph.loads),
        "graphs": len({id(twin) for twin in Graph.twins}),
        "unet": [kind.__module__ for kind in type(twin.unet).__mro__],
        "processors": sorted(processors),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *sys.argv[2:])))
