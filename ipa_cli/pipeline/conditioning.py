"""Encoded prompts and references joined into the `Conditions` of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipa_cli.hardware import devices
from ipa_cli.models.architectures.base import PromptEmbeds
from ipa_cli.pipeline import masks, regions
from ipa_cli.unet import layers

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.models.loader import Model
    from ipa_cli.pipeline.denoise import Conditions
    from ipa_cli.pipeline.image_encoding import Embeds
    from ipa_cli.pipeline.image_prompt import ImagePrompt
    from ipa_cli.pipeline.task import Request


def join(model: Model, texts: list[PromptEmbeds], images: list[Embeds], request: Request) -> Conditions:
    """Every layer's keys and values from encoded prompts and references, masks, shares, and the scales of `request`.

    Without references it is the text alone, whatever adapters are loaded.
    """
    from ipa_cli.pipeline.denoise import Conditions
    from ipa_cli.unet import attention

    hidden, used = texts[0].hidden, request.image_prompts
    names, levels = attention.layers(model.unet), len(model.unet.config.down_block_types)
    size, factor = (request.width, request.height), model.architecture.latent_factor
    grids = [_grid(name, levels, size[0] // factor, size[1] // factor) for name in names]
    seen = masks.of_layers(used, grids, *size, hidden.device, hidden.dtype)
    adapters = model.adapters if used else attention.Adapters((), ())
    weights, parts = [one.value_weights for one in used], [one.parts for one in used]
    scale = devices.sent(scales(used, names), hidden.device)
    context = attention.project(model.unet, adapters, hidden, images, scale, weights, parts)
    context = context._replace(image=_on_negative(context.image, used, names, request.guided), mask=seen)
    pooled = texts[0].pooled
    if request.regions:
        shares = regions.shares(request.regions, *size)
        context = context._replace(
            regions=[attention.project_text(model.unet, one.hidden) for one in texts[1:]],
            share=regions.of_layers(shares, grids, hidden.device, hidden.dtype),
        )
        pooled = regions.pooled([one.pooled for one in texts], shares)
    return Conditions(model.architecture, context, pooled, spans(used), guided=request.guided)


def _on_negative(
    image: list[list[Tensor]], image_prompts: Sequence[ImagePrompt], names: Sequence[str], guided: bool
) -> list[list[Tensor]]:
    """The images' keys and values, where layers are `ImagePrompt.on_negative` those of the other half.

    The positive half then has keys and values of zero, of which attention makes zeros.
    """
    import torch

    def moved(pair: Tensor) -> Tensor:
        nothing = torch.zeros_like(pair.chunk(2, 1)[1] if guided else pair)
        return torch.cat([pair.chunk(2, 1)[1], nothing], 1) if guided else nothing

    rows = [layers.factors(names, one.on_negative) for one in image_prompts for _ in range(one.parts)]
    return [
        [moved(pair) if move else pair for pair, move in zip(row, moves, strict=True)]
        for row, moves in zip(image, rows, strict=True)
    ]


def spans(image_prompts: Sequence[ImagePrompt]) -> tuple[tuple[float, float], ...]:
    """Per row of `scales`, the fractions of the steps between which it is not 0."""
    return tuple((one.start, one.end) for one in image_prompts for _ in range(one.parts))


def scales(image_prompts: Sequence[ImagePrompt], names: Sequence[str]) -> Tensor:
    """The per-row scale on each layer of `attention.layers`, (rows, layers), float32; for rows see `inputs.Context`."""
    import torch

    rows = [
        [image_prompt.scale * factor for factor in layers.factors(names, image_prompt.pattern)]
        for image_prompt in image_prompts
        for _ in range(image_prompt.parts)
    ]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(names))


def _grid(name: str, levels: int, width: int, height: int) -> tuple[int, int]:
    """Columns and rows of pixels that the layer called `name` sees of a picture of this size in latents.

    `levels`: blocks of the UNet one way down.
    """
    part, number, *_ = name.split(".")
    depth = {"down_blocks": lambda: int(number), "up_blocks": lambda: levels - 1 - int(number)}
    for _ in range(depth.get(part, lambda: levels - 1)()):
        width, height = -(-width // 2), -(-height // 2)
    return width, height
