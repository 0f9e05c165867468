"""What a LoRA adds to one weight, as the product of small matrices.

LoRA is arXiv 2106.09685, with a core between the two matrices of a convolution as in LyCORIS (arXiv 2309.14859), which
has LoHa (Hadamard product) and LoKr (Kronecker product) too; DoRA is arXiv 2402.09353.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Which tensors each kind has, the last ones where there is a core or no factorization.
KINDS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "LoRA": (frozenset({"down", "up"}), frozenset({"mid"})),
    "LoHa": (
        frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),
        frozenset({"hada_t1", "hada_t2"}),
    ),
    "LoKr": (
        frozenset(),
        frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"}),
    ),
}


@dataclass(frozen=True, eq=False)
class Change:
    """The tensors of one of `KINDS` by name, what multiplies their product, and DoRA's magnitudes."""

    kind: str
    tensors: Mapping[str, Tensor] = field(repr=False)
    scale: float
    magnitude: Tensor | None = field(default=None, repr=False)

    def added(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """What is added to a weight of this shape, in float32. Raises ValueError for matrices that do not fit."""
        parts = {name: tensor.to(device).float() for name, tensor in self.tensors.items()}
        product = {"LoRA": _lora, "LoHa": _loha, "LoKr": _lokr}[self.kind](parts)
        if product.numel() != math.prod(shape) or product.shape[0] != shape[0]:
            raise ValueError(f"{tuple(product.shape)} for a weight of {tuple(shape)}")
        return product.reshape(tuple(shape)) * self.scale


@lru_cache(maxsize=4096)
def fits(kind: str, shapes: tuple[tuple[str, tuple[int, ...]], ...], weight: tuple[int, ...]) -> bool:
    """Whether matrices of these shapes, by name, can be added to a weight; a file has few kinds of them."""
    import torch

    nowhere = torch.device("meta")
    try:
        Change(kind, {name: torch.empty(shape, device=nowhere) for name, shape in shapes}, 1.0).added(weight, nowhere)
    except (ValueError, RuntimeError, IndexError):
        return False
    return True


def merged(weight: Tensor, changes: Sequence[tuple[Change, float]], device: torch.device) -> Tensor:
    """`weight` with changes at their strengths, in float32 on `device`; rounding is left to the caller.

    DoRA's magnitudes are those of diffusers and PEFT: of the rows of the weight with this change alone.
    """
    base = weight.to(device).float()
    result = base
    for change, strength in changes:
        added = change.added(base.shape, device) * strength
        if change.magnitude is None:
            result = result + added
        else:
            result = _magnitude(change.magnitude.to(device).float(), base + added) * (result + added)
    return result


def rank(kind: str, tensors: Mapping[str, Tensor]) -> int | None:
    """The rank that alpha is divided by; None for a product of whole matrices."""
    named = {"LoRA": ("down",), "LoHa": ("hada_w1_b",), "LoKr": ("lokr_w1_b", "lokr_w2_b")}[kind]
    return next((tensors[name].shape[0] for name in named if name in tensors and tensors[name].ndim), None)


def _magnitude(wanted: Tensor, weight: Tensor) -> Tensor:
    """What brings the rows of `weight` to the norms `wanted`, or its columns where there are as many of these."""
    rows = weight.shape[0]
    if wanted.numel() == rows:
        return (wanted.flatten() / weight.flatten(1).norm(dim=1)).reshape(rows, *[1] * (weight.ndim - 1))
    columns = weight.transpose(0, 1)
    norms = columns.flatten(1).norm(dim=1)
    return (wanted.flatten() / norms).reshape(1, len(norms), *[1] * (weight.ndim - 2))


def _lora(parts: Mapping[str, Tensor]) -> Tensor:
    up, down = parts["up"], parts["down"]
    if "mid" in parts:
        import torch

        return torch.einsum("or,rs...,si->oi...", up.flatten(1), parts["mid"], down.flatten(1))
    return (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def _loha(parts: Mapping[str, Tensor]) -> Tensor:
    return _half(parts, "1") * _half(parts, "2")


def _half(parts: Mapping[str, Tensor], number: str) -> Tensor:
    first, second = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
    if f"hada_t{number}" not in parts:
        return first @ second
    import torch

    return torch.einsum("rs...,si,ro->oi...", parts[f"hada_t{number}"], second, first)


def _lokr(parts: Mapping[str, Tensor]) -> Tensor:
    import torch

    first = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "lokr_w2" in parts:
        second = parts["lokr_w2"]
    elif "lokr_t2" in parts:
        second = torch.einsum("rs...,si,ro->oi...", parts["lokr_t2"], parts["lokr_w2_b"], parts["lokr_w2_a"])
    else:
        second = (parts["lokr_w2_a"].flatten(1) @ parts["lokr_w2_b"].flatten(1)).reshape(
            len(parts["lokr_w2_a"]), *parts["lokr_w2_b"].shape[1:]
        )
    return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())
