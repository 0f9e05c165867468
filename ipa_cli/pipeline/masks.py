"""Masks of references at the size of each layer of the UNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipa_cli.hardware import devices

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from ipa_cli.pipeline.image_prompt import ImagePrompt


def of_layers(
    image_prompts: Sequence[ImagePrompt],
    grids: Sequence[tuple[int, int]],
    width: int,
    height: int,
    device: torch.device,
    dtype: torch.dtype,
) -> list[list[Tensor]]:
    """The masks as `inputs.Context` has them, for a picture of this size; empty when no adapter has one.

    Made smaller for layers that see so many columns and rows as diffusers' `IPAdapterMaskProcessor` does.
    """
    if not any(image_prompt.masked for image_prompt in image_prompts):
        return []
    pixels = [columns * rows for columns, rows in grids]
    result = []
    for whole in (whole for image_prompt in image_prompts for whole in _rows(image_prompt, width, height)):
        small = {
            count: devices.sent(_downsampled(whole, count)[None, None, :, None], device, dtype) for count in set(pixels)
        }
        result.append([small[count] for count in pixels])
    return result


def _rows(image_prompt: ImagePrompt, width: int, height: int) -> list[Tensor]:
    """For each row of an image prompt, 1 where it acts and 0 elsewhere, (height, width)."""
    import torch

    wholes = [_binary(mask.image, width, height) for mask in image_prompt.masks] or [torch.ones(height, width)]
    if not image_prompt.tiles:
        return wholes
    rows = []
    for area in image_prompt.tiles:
        left, right = (round(width * end) for end in (area.left, area.right))
        top, bottom = (round(height * end) for end in (area.top, area.bottom))
        rows.append(torch.zeros(height, width))
        rows[-1][top:bottom, left:right] = wholes[0][top:bottom, left:right]
    return rows


def _binary(mask: Image.Image, width: int, height: int) -> Tensor:
    """A mask at the picture's size, (height, width): 1 where it is at least half white."""
    import numpy as np
    import torch
    from PIL import Image

    resized = mask.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).convert("L")
    return (torch.from_numpy(np.asarray(resized, dtype=np.float32) / 255) >= 0.5).float()


def _downsampled(mask: Tensor, pixels: int) -> Tensor:
    """A mask for a layer that sees so many pixels, (pixels,): of another shape by rounding alone, filled up or cut."""
    import torch.nn.functional as F

    height, width = mask.shape
    rows = int((pixels * height / width) ** 0.5)
    rows += pixels % rows != 0
    small = F.interpolate(mask[None, None], size=(rows, pixels // rows), mode="bicubic").flatten()
    return F.pad(small, (0, max(0, pixels - len(small))))[:pixels]
