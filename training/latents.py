"""The latents of a picture, given by a formula."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Brightness and two colour differences of a block of 8 x 8 pixels, each brought to about unit deviation.
COLOUR_AXES = ((0.577, 0.577, 0.577), (0.707, -0.707, 0.0), (0.408, 0.408, -0.816))
AXIS_GAIN = (1.2, 2.2, 2.2)


def latents_of(pictures: Tensor) -> Tensor:
    """(N, 4, h/8, w/8) of pictures in 0 to 1: mean colour of each block of 8 x 8 pixels, and its unevenness.

    Given by a formula instead of learnt: a smooth space in which colours are plain, ready before any training.
    """
    return latents_of_half(F.avg_pool2d(pictures, 2))


def latents_of_half(pictures: Tensor) -> Tensor:
    """The latents of the picture twice as large."""
    axes = torch.stack([sum(w * pictures[:, i] for i, w in enumerate(axis)) for axis in COLOUR_AXES], 1)
    mean = F.avg_pool2d(axes, 4)
    bright = axes[:, :1] - F.interpolate(mean[:, :1], scale_factor=4, mode="nearest")
    uneven = F.avg_pool2d(bright.square(), 4).clamp(min=1e-6).sqrt()
    offset = sum(COLOUR_AXES[0]) / 2
    planes = [(mean[:, i : i + 1] - (offset if i == 0 else 0)) * 2 * AXIS_GAIN[i] for i in range(3)]
    return torch.cat([*planes, uneven * 8 - 0.5], 1)
