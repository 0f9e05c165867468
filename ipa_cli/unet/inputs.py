"""What one call of a UNet, or of a ControlNet beside it, takes, by name.

`UNetInputs`, `ControlInputs` and their optional members are pytrees (`torch.utils._pytree`): what copies, casts,
exports or compares inputs walks over their tensors with `tree_map`, and an absent member, None, has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Context(NamedTuple):
    """What every cross-attention layer reads; layer i is entry i, in the order of `attention.layers`.

    A row is one IP-Adapter, or one mask of an adapter that has several, with the images that the mask is for. A region
    has a prompt of its own; without regions there are no shares. The tensors of `text`, `image` and `regions` are never
    changed in place: a new prompt is a new `Context`. A named tuple is a pytree by itself, and torch.compile can make
    one inside a graph.
    """

    text: list[Tensor]  # per layer: (2, B, heads, tokens, d), keys and values
    image: list[list[Tensor]]  # per row, per layer: (2, B, heads, images * tokens, d)
    scale: Tensor  # (rows, layers), float32
    mask: Sequence[list[Tensor]] = ()  # empty, or per row, per layer: (1, 1, pixels, 1), 1 where the row acts
    regions: Sequence[list[Tensor]] = ()  # per region, per layer: keys and values of its prompt, as in `text`
    share: Sequence[list[Tensor]] = ()  # of `text` and of each region, per layer: (1, 1, pixels, 1); their sum is 1


@dataclass(frozen=True)
class AddedConditions:
    """What a UNet adds to its time embedding, diffusers' `added_cond_kwargs`: the "text_time" conditions of SDXL."""

    text_embeds: Tensor  # (B, pooled)
    time_ids: Tensor  # (B, 6) for SDXL: original height and width, crop top and left, target height and width


@dataclass(frozen=True)
class ControlResiduals:
    """What a ControlNet adds to the UNet's own states, as diffusers' `ControlNetModel` gives them.

    `down` holds one tensor for each skip connection, `conv_in` first: `down_block_additional_residuals`; `mid` is
    `mid_block_additional_residual`.
    """

    down: tuple[Tensor, ...]
    mid: Tensor


@dataclass(frozen=True)
class DeepStates:
    """What the last block up is given, (B, width, h, w): all that lies between the first block down and the last up.

    A call that is given them computes the two blocks alone. One that is given none gives them: `NoiseAndDeep`.
    """

    states: Tensor | None = None


class NoiseAndDeep(NamedTuple):
    """What a UNet gives that is to give its deep states."""

    noise: Tensor
    deep: Tensor


@dataclass(frozen=True)
class UNetInputs:
    """One call of a UNet; every tensor on the UNet's device. Members that are None do not exist for the graph."""

    sample: Tensor  # (B, channels, h, w) in latent pixels
    timestep: Tensor  # ()
    context: Context
    added: AddedConditions | None = None
    control: ControlResiduals | None = None
    deep: DeepStates | None = None


@dataclass(frozen=True)
class ControlInputs:
    """One call of a ControlNet, as `UNetInputs`; what it made of its map once is an input of every step.

    The context has the text alone, with the keys and values of the ControlNet's own layers.
    """

    sample: Tensor  # (B, channels, h, w) in latent pixels
    timestep: Tensor  # ()
    context: Context
    hint: Tensor  # (B, width, h, w), see `ControlNet.hint`
    scale: Tensor  # (B, 1, 1, 1), float32: what the residuals are multiplied by
    added: AddedConditions | None = None
    kind: Tensor | None = None  # (B, time) of a union model


def tensors(inputs: Any) -> list[Tensor]:
    """All tensors of inputs, or of a member, in the order of their fields."""
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]


def halves(inputs: UNetInputs) -> tuple[UNetInputs, UNetInputs]:
    """The first and the second half of a batch, contiguous: with guidance the negative and the positive one.

    `scale`, masks and shares, which all pictures have in common, are in both.
    """

    def half(number: int) -> UNetInputs:
        def of(tree: Any, dim: int = 0) -> Any:
            return pytree.tree_map(lambda x: None if x is None else x.chunk(2, dim)[number].contiguous(), tree)

        context = inputs.context
        batched = {name: of(getattr(context, name), 1) for name in ("text", "image", "regions")}
        return replace(
            inputs,
            sample=of(inputs.sample),
            context=context._replace(**batched),
            added=of(inputs.added),
            control=of(inputs.control),
        )

    return half(0), half(1)


def _register(kind: type) -> None:
    """Make a dataclass a pytree whose children are the members that are present.

    As `torch.utils._pytree.register_dataclass`, which torch 2.3 does not have.
    """
    names = [field.name for field in fields(kind)]

    def present(value: Any) -> list[str]:
        return [name for name in names if getattr(value, name) is not None]

    def flatten(value: Any) -> tuple[list[Any], Any]:
        return [getattr(value, name) for name in present(value)], present(value)

    def flatten_with_keys(value: Any) -> tuple[list[tuple[Any, Any]], Any]:
        return [(pytree.GetAttrKey(name), getattr(value, name)) for name in present(value)], present(value)

    def unflatten(values: Any, context: Any) -> Any:
        return kind(**dict(zip(context, values, strict=True)))

    pytree.register_pytree_node(kind, flatten, unflatten, flatten_with_keys_fn=flatten_with_keys)


for _kind in (AddedConditions, ControlResiduals, DeepStates, ControlInputs, UNetInputs):
    _register(_kind)
