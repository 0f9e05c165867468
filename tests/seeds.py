"""Generators as a sampler takes them."""

from collections.abc import Sequence

import torch


def after_noise(*seeds: int, shape: Sequence[int] = (1, 4, 8, 8)) -> list[torch.Generator]:
    """One for each picture, from which the noise that it begins with was drawn."""
    made = [torch.Generator().manual_seed(seed) for seed in seeds]
    for generator in made:
        torch.randn(tuple(shape), generator=generator)
    return made
