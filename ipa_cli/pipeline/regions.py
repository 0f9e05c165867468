"""Prompts for parts of the picture: what is followed where, and how much.

Each pixel of a cross-attention layer sees the prompts in shares whose sum is 1: that of a region is its weight where
its mask is white, the prompt of the picture has what is left of 1, and where the weights together exceed 1 they are
divided by their sum. So do the attention modes of A1111's and ComfyUI's regional prompters: the UNet is called once a
step, whatever the number of regions. The pooled embedding of SDXL has no place: prompts count in it by their areas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipa_cli.config.regions import RegionConfig
from ipa_cli.errors import IpaError
from ipa_cli.hardware import devices
from ipa_cli.images import proportions
from ipa_cli.images.reference import Reference

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SEEN = 3  # levels of grey, below which a mask is taken for black


@dataclass(frozen=True)
class Region:
    """A prompt and the mask of where it is followed, white; grey is between. `negative` None is the picture's own."""

    mask: Reference
    prompt: str
    weight: float = 1.0
    negative: str | None = None


def make(asked: Sequence[RegionConfig], masks: Sequence[Reference]) -> tuple[Region, ...]:
    """The regions that are asked for, with their masks."""
    return tuple(Region(mask, one.prompt, one.weight, one.negative) for one, mask in zip(asked, masks, strict=True))


def check(regions: Sequence[Region], width: int, height: int) -> None:
    """Raise IpaError unless every mask has the proportions of the picture and is white somewhere."""
    for mask in (one.mask for one in regions):
        if not any(mask.image.histogram()[SEEN:]):
            raise IpaError(
                f"the mask {mask.source} of a region is black everywhere", "make it white where its prompt is followed"
            )
        if proportions.differ((mask.width, mask.height), (width, height)):
            raise IpaError(
                f"the mask {mask.source} of a region is {mask.width}x{mask.height}, the picture {width}x{height}",
                proportions.of_mask(width, height),
            )


def shares(regions: Sequence[Region], width: int, height: int) -> Tensor:
    """The share of the picture's prompt, and of that of each region, at each pixel: (1 + regions, height, width)."""
    import numpy as np
    import torch
    from PIL import Image

    def level(region: Region) -> Tensor:
        resized = region.mask.image.convert("L").resize((width, height), Image.Resampling.BILINEAR)
        return region.weight * torch.from_numpy(np.asarray(resized, dtype=np.float32) / 255)

    weights = torch.stack([level(one) for one in regions])
    weights = weights / weights.sum(0).clamp(min=1)
    return torch.cat([1 - weights.sum(0, keepdim=True), weights]).clamp(0, 1)


def of_layers(
    shares: Tensor, grids: Sequence[tuple[int, int]], device: torch.device, dtype: torch.dtype
) -> list[list[Tensor]]:
    """`shares` as `inputs.Context` has them, for layers that see so many columns and rows: means of the pixels."""
    import torch.nn.functional as F

    def of_grid(columns: int, rows: int) -> Tensor:
        return devices.sent(F.interpolate(shares[None], (rows, columns), mode="area")[0].flatten(1), device, dtype)

    small = {grid: of_grid(*grid) for grid in set(grids)}
    return [[small[grid][number][None, None, :, None] for grid in grids] for number in range(len(shares))]


def pooled(each: Sequence[Tensor | None], shares: Tensor) -> Tensor | None:
    """The pooled embedding of several prompts, each by the part of the picture that is its own."""
    areas = shares.mean((1, 2)).tolist()
    found = [(one, area) for one, area in zip(each, areas, strict=True) if one is not None]
    if not found:
        return None
    return sum((one.float() * area for one, area in found[1:]), found[0][0].float() * found[0][1]).to(found[0][0].dtype)
