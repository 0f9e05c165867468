"""Pictures of several requests in one call of the UNet: which go together, and their conditions as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ipa_cli.pipeline import residuals
from ipa_cli.pipeline.task import Request

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.models.architectures.base import PromptEmbeds
    from ipa_cli.pipeline.denoise import Conditions
    from ipa_cli.pipeline.image_encoding import Embeds

    Embedded = tuple[list[PromptEmbeds], list[Embeds]]  # the prompts and references of a request


def alike(one: Request, other: Request) -> bool:
    """Whether both draw one picture without masks, regions and ControlNets, but for seeds, prompts and references."""
    masked = any(prompt.masked for each in (one, other) for prompt in each.image_prompts)
    alone = masked or one.regions or one.controls or other.controls
    return not alone and len(one.seeds) == len(other.seeds) == 1 and _shared(one) == _shared(other)


def _shared(request: Request) -> tuple[Any, ...]:
    """What all pictures of a batch have in common."""
    plain = replace(request, prompt="", negative_prompt="", seeds=(), image_prompts=())
    prompts = request.image_prompts
    return plain, [
        (one.scale, one.pattern, one.start, one.end, len(one.sources), one.embeds is None) for one in prompts
    ]


def weighed_alike(requests: Sequence[Request]) -> bool:
    """Whether what makes keys and values of embeds is the same for requests that are `alike`."""
    first, *others = (
        [(one.value_weights, one.on_negative, one.faces.shortcut) for one in request.image_prompts]
        for request in requests
    )
    return all(other == first for other in others)


def embeds(each: Sequence[Embedded]) -> Embedded | None:
    """Prompts and references of one picture each as those of a batch; None where their shapes differ.

    They do with longer prompts. With guidance all negative halves come first.
    """
    from torch import Tensor
    from torch.utils import _pytree as pytree

    from ipa_cli.unet.inputs import tensors

    if len({tuple(tensor.shape for tensor in tensors(one)) for one in each}) > 1:
        return None

    def batch(*many: Any) -> Any:
        return _batch(many, 0) if isinstance(many[0], Tensor) else many[0]

    joined: Embedded = pytree.tree_map(batch, *each)
    return joined


def joined(each: Sequence[Conditions]) -> Conditions | None:
    """Conditions of one picture each as those of a batch; None where their shapes differ, as of longer prompts.

    With guidance all negative halves come first.
    """
    if len({_shapes(one) for one in each}) > 1:
        return None
    first, contexts = each[0], [one.context for one in each]
    pooled = [one.pooled for one in each if one.pooled is not None]
    unguided = [one.unguided for one in each if one.unguided is not None]
    layers = range(len(first.context.text))
    return replace(
        first,
        context=first.context._replace(
            text=[_batch([one.text[layer] for one in contexts], 1) for layer in layers],
            image=[
                [_batch([one.image[row][layer] for one in contexts], 1) for layer in layers]
                for row in range(len(first.context.image))
            ],
        ),
        pooled=_batch(pooled, 0) if pooled else None,
        unguided=joined(unguided) if unguided else None,
        controls=tuple(residuals.joined(found, _batch) for found in zip(*(one.controls for one in each), strict=True)),
    )


def _batch(tensors: Sequence[Tensor], dim: int) -> Tensor:
    import torch

    halves = tensors[0].shape[dim]  # 2 with guidance
    return torch.cat([one.narrow(dim, half, 1) for half in range(halves) for one in tensors], dim)


def _shapes(conditions: Conditions) -> tuple[Any, ...]:
    context = conditions.context
    return context.text[0].shape, tuple(row[0].shape for row in context.image)
