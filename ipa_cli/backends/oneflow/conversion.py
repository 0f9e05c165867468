"""The UNet in OneFlow: the code of `unet/model` and `unet/attention`, run with OneFlow where it says torch.

OneFlow has torch's modules, functions and names, so there is no second UNet to keep in step with the first.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import oneflow
from oneflow.utils.tensor import from_torch

MODULES = ("ipa_cli.networks.common", "ipa_cli.unet.attention", "ipa_cli.unet.model")


def to_oneflow(unet: Any) -> Any:
    """A `unet.model.UNet` as a OneFlow module that shares the memory of its weights."""
    copies: dict[str, ModuleType] = {}
    model, attention = (_with_oneflow(name, copies) for name in ("ipa_cli.unet.model", "ipa_cli.unet.attention"))
    with _without_weights():
        converted = model.UNet(unet.config).eval()
    modules = dict(converted.named_modules())
    for name, weight in unet.named_parameters():
        module, _, own = name.rpartition(".")
        shared = from_torch(weight.detach().contiguous())
        setattr(modules[module], own, oneflow.nn.Parameter(shared, requires_grad=False))
    attention.set_processors(converted)
    return converted


def _with_oneflow(name: str, copies: dict[str, ModuleType]) -> ModuleType:
    """A copy of one of `MODULES` that imports `TORCH` as torch, and copies of the others; `copies` has those made."""
    if name in copies:
        return copies[name]
    copy = copies[name] = ModuleType(name)

    def imported(wanted: str, *details: Any) -> Any:
        if wanted.partition(".")[0] == "torch":
            return TORCH
        return _with_oneflow(wanted, copies) if wanted in MODULES else builtins.__import__(wanted, *details)

    vars(copy)["__builtins__"] = {**vars(builtins), "__import__": imported}
    spec: Any = find_spec(name)
    exec(spec.loader.get_code(name), vars(copy))
    return copy


class _Module(ModuleType):
    """`original` with some attributes added."""

    def __init__(self, original: ModuleType, **added: Any):
        super().__init__(original.__name__)
        self.original = original
        vars(self).update(added)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def _attend(query: Any, key: Any, value: Any) -> Any:
    """torch's `scaled_dot_product_attention`, which OneFlow 0.9.0 lacks, for (B, heads, tokens, d)."""
    scores = oneflow.matmul(query * query.shape[-1] ** -0.5, key.transpose(-2, -1))
    return oneflow.matmul(oneflow.softmax(scores, dim=-1), value)


def _unflatten(tensor: Any, dim: int, sizes: Any) -> Any:
    """The method of torch's tensors, for the last dimension."""
    assert dim == -1
    return tensor.reshape(*tensor.shape[:-1], *sizes)


oneflow.Tensor.unflatten = _unflatten
_functional = _Module(oneflow.nn.functional, scaled_dot_product_attention=_attend)
TORCH = _Module(oneflow, nn=_Module(oneflow.nn, functional=_functional))


@contextmanager
def _without_weights() -> Iterator[None]:
    """Make modules whose weights are still to come, as in `networks.common`: theirs would fill the memory once more."""
    nn = oneflow.nn
    kinds: tuple[Any, ...] = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
    before = [kind.reset_parameters for kind in kinds]
    for kind in kinds:
        kind.reset_parameters = _drop_weights
    try:
        yield
    finally:
        for kind, method in zip(kinds, before, strict=True):
            kind.reset_parameters = method


def _drop_weights(module: Any) -> None:
    for name, _ in list(module.named_parameters()):
        setattr(module, name, oneflow.nn.Parameter(oneflow.empty(1), requires_grad=False))
