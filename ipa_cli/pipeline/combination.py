"""Several references of one adapter made into one, before its projection: ComfyUI's `combine_embeds`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipa_cli.hardware import devices

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.pipeline.image_prompt import ImagePrompt


def combined(image_prompt: ImagePrompt, negative: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings of both halves, (tiles * images, …), as those of one image for each tile.

    Weights multiply the images' embeddings, as in ComfyUI's node IPAdapterEncoder. The negative half is that of the
    first image. With one image, or where tokens are concatenated, nothing changes.
    """
    if not image_prompt.combined:
        return negative, positive
    import torch

    count = len(image_prompt.weights)
    weights = devices.sent(torch.tensor(image_prompt.weights), positive.device, positive.dtype)
    weights = weights.view(-1, *[1] * (positive.ndim - 1))
    each = positive.unflatten(0, (-1, count)) * weights
    return negative.unflatten(0, (-1, count))[:, 0], _of_images(image_prompt.combine, each)


def _of_images(combine: str, each: Tensor) -> Tensor:
    """One image of several in dimension 1, by the name of the way."""
    if combine == "add":
        return each.sum(1)
    if combine == "subtract":
        return each[:, 0] - each[:, 1:].mean(1)
    if combine == "norm-average":  # the norm is that of each number over all images, as in ComfyUI
        norm = each.float().norm(dim=1, keepdim=True).to(each.dtype)
        return (each / norm).nan_to_num(0.0).mean(1)
    assert combine == "average"
    return each.mean(1)
