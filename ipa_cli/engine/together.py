"""Pictures of several requests in one call of the UNet: which go together, and their conditions as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ipa_cli.pipeline import residuals
from ipa_cli.pipeline.task import Request

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.pipeline.denoise import Conditions


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


def joined(each: Sequence[Conditions]) -> Conditions | None:
    """Conditions of one picture each as those of a batch; None where their shapes differ, as of longer prompts.

    With guidance all negative halves come first.
    """
    import torch

    if len({_shapes(one) for one in each}) > 1:
        return None

    def batch(tensors: Sequence[Tensor], dim: int) -> Tensor:
        halves = tensors[0].shape[dim]  # 2 with guidance
        return torch.cat([one.narrow(dim, half, 1) for half in range(halves) for one in tensors], dim)

    first, contexts = each[0], [one.context for one in each]
    pooled = [one.pooled for one in each if one.pooled is not None]
    unguided = [one.unguided for one in each if one.unguided is not None]
    layers = range(len(first.context.text))
    return replace(
        first,
        context=first.context._replace(
            text=[batch([one.text[layer] for one in contexts], 1) for layer in layers],
            image=[
                [batch([one.image[row][layer] for one in contexts], 1) for layer in layers]
                for row in range(len(first.context.image))
            ],
        ),
        pooled=batch(pooled, 0) if pooled else None,
        unguided=joined(unguided) if unguided else None,
        controls=tuple(residuals.joined(found, batch) for found in zip(*(one.controls for one in each), strict=True)),
    )


def _shapes(conditions: Conditions) -> tuple[Any, ...]:
    context = conditions.context
    return context.text[0].shape, tuple(row[0].shape for row in context.image)
