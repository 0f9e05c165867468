"""Linear layers in fp8: weights quantised once, states row by row in each step, sums in half precision or better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

EIGHT = torch.float8_e4m3fn
LARGEST = 448.0  # of its numbers
CAPABILITY = (8, 9)  # of the first GPUs that multiply them


class Rows(NamedTuple):
    """States in fp8, (rows, width), what each row is to be multiplied by, (rows, 1), and how they are arranged."""

    numbers: Tensor
    size: Tensor
    shape: Sequence[int]


class EightBitLinear(nn.Module):
    """A linear layer like `layer`; `weight` is (out, in) in fp8, `size` (1, out) what its rows are multiplied by."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        shape = (layer.out_features, layer.in_features)
        self.weight = nn.Parameter(torch.empty(shape, dtype=EIGHT, device="meta"), requires_grad=False)
        self.size = nn.Parameter(torch.empty(1, shape[0], device="meta"), requires_grad=False)
        self.bias, self.dtype = layer.bias, layer.weight.dtype

    def forward(self, states: Tensor | Rows) -> Tensor:
        if isinstance(states, Tensor):
            states = Rows(*quantised(states.flatten(0, -2)), states.shape[:-1])
        out = torch._scaled_mm(
            states.numbers,
            self.weight.t(),
            states.size,
            self.size,
            bias=self.bias,
            out_dtype=self.dtype,
            use_fast_accum=True,
        )
        return out.unflatten(0, states.shape)


def quantised(states: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in fp8, and what each is to be multiplied by: (rows, width) and (rows, 1)."""
    wide = states.float()
    size = wide.abs().amax(-1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (wide * (1 / size)).clamp(-LARGEST, LARGEST).to(EIGHT), size


def capable(device: torch.device) -> bool:
    """Whether fp8 products run on `device`."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY
