"""Random numbers of n rows from one generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Chance:
    """Random numbers of n rows from one generator."""

    def __init__(self, n: int, generator: torch.Generator):
        self.n, self.generator, self.device = n, generator, generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(self.n, *shape, generator=self.generator, device=self.device)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def integer(self, low: int, high: int, *shape: int) -> Tensor:
        """low to high - 1."""
        return torch.randint(low, high, (self.n, *shape), generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.n, *shape, generator=self.generator, device=self.device)

    def happens(self, p: float) -> Tensor:
        return torch.rand(self.n, generator=self.generator, device=self.device) < p
