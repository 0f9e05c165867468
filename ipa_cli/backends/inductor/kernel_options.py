"""Which kernels the parts of a UNet use, where there is a choice."""

from __future__ import annotations

from typing import NamedTuple

# The linear layers of a transformer block, by their names in it.
LINEAR = ("attn1.to_qkv", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")

# The convolutions of a residual block, by their names in it.
CONVOLUTIONS = ("conv1", "conv2")

# Triton kernels of our own: cross attention; on Hopper the first product of a feed-forward network with its gate; and
# where that is not for fp8, the gate alone, quantized by rows.
KERNELS = ("cross", "gate", "rows")


class KernelOptions(NamedTuple):
    """How parts compute."""

    kernels: tuple[str, ...] = ()  # of `KERNELS`, where they fit
    phases: bool = False  # upsampling and its convolution as one convolution of the small picture
    eight: tuple[str, ...] = ()  # layers in fp8, of `LINEAR` and, where our kernels are for them, of `CONVOLUTIONS`
    squares: bool = False  # whether fp8 products of blocks and squares of weights run here
