"""The kernels that the parts of a UNet use, where there is a choice."""

from __future__ import annotations

from typing import NamedTuple

from ipa_cli.backends.inductor.tuning import KINDS, Tuning

# The linear layers of a transformer block, by their names in it.
LINEAR = ("attn1.to_qkv", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")

# The convolutions of a residual block, by their names in it.
CONVOLUTIONS = ("conv1", "conv2")

# Our Triton kernels: cross attention to text and image; the first product of a feed-forward network with its gate;
# where that product is not one kernel with the gate, the gate with the quantization for the next in fp8; and the layer
# norm with the quantization for a product in fp8.
KERNELS = tuple(KINDS)


class KernelOptions(NamedTuple):
    """How parts compute."""

    kernels: tuple[str, ...] = ()  # of `KERNELS`, where they fit
    fuse_upsample: bool = False  # upsampling and its convolution as one sub-pixel convolution
    fp8_layers: tuple[str, ...] = ()  # of `LINEAR` and, where our kernels are for them, of `CONVOLUTIONS`
    blockwise: bool = False  # whether blockwise fp8 products run here
    half_products: bool = True  # whether rowwise fp8 products give float16 here; else they give bfloat16
    tuning: Tuning = Tuning()
