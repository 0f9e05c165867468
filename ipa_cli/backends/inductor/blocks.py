"""What the parts of a UNet compute: modules on the meta device, called with weights as inputs.

The cuts lie where a step gains: the time embedding is one product for all residual blocks, queries, keys and values
are one product, and what a transformer block adds last is handed on by itself, so that the sum is made where it is
normed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipa_cli.backends.inductor import fp8, norms
from ipa_cli.backends.inductor.fused import (
    FusedCrossAttention,
    FusedGeglu,
    FusedQkvSelfAttention,
    GateQuantize,
    GegluQuantize,
    NormQuantize,
)
from ipa_cli.backends.inductor.kernel_options import CONVOLUTIONS, LINEAR, KernelOptions
from ipa_cli.unet.attention import CrossAttention
from ipa_cli.unet.inputs import Context


class TimeEmbedding(nn.Module):
    """What the time and the added conditions add to each residual block, side by side: (B, all their widths).

    The timestep is one number, or (B,) where no added conditions tell the batch. What is `given` are the added
    conditions, time ids and pooled text, and of a union ControlNet what the kind of its map adds, (B, time).
    """

    def __init__(self, unet: Any):
        super().__init__()
        self.time_proj, self.time_embedding = unet.time_proj, norms.on_meta(unet.time_embedding)
        if unet.config.addition_embed_type == "text_time":
            self.add_time_proj, self.add_embedding = unet.add_time_proj, norms.on_meta(unet.add_embedding)
        projections = [resnet.time_emb_proj for _, resnet in resnets(unet)]
        width = sum(projection.out_features for projection in projections)
        self.shifts = _linear(projections[0].in_features, width, unet.dtype)

    def forward(self, timestep: Tensor, *given: Tensor) -> tuple[Tensor]:
        added, kind = given[:2] if len(given) > 1 else (), given[2:] if len(given) > 1 else given
        batch, dtype = len(added[0] if added else timestep), self.shifts.weight.dtype
        embedding = self.time_embedding(self.time_proj(timestep.expand(batch)).to(dtype))
        for one in kind:
            embedding = embedding + one
        if added:
            time_ids, text_embeds = added
            sizes = self.add_time_proj(time_ids.flatten()).reshape(batch, -1)
            embedding = embedding + self.add_embedding(torch.cat([text_embeds, sizes], -1).to(dtype))
        return (self.shifts(F.silu(embedding)),)


class ResnetBlock(nn.Module):
    """A residual block of one picture or of two, concatenated by channel, and the shift by the time embedding."""

    def __init__(self, resnet: Any, options: KernelOptions):
        super().__init__()
        self.resnet = norms.on_meta(resnet)
        self.resnet.time_emb_proj = None
        self.standard = _is_standard(resnet)
        for name in CONVOLUTIONS if self.standard else ():
            kind = Fp8NormSiluConv2d if fits_fp8_conv(resnet, name, options) else NormSiluConv2d
            setattr(self.resnet, name, kind(getattr(self.resnet, name)))

    def forward(self, *given: Tensor) -> tuple[Tensor]:
        *pictures, shift = given
        block = self.resnet
        if not self.standard:
            return (block(norms.cat_channels(*pictures), shift[:, :, None, None]),)
        states = block.conv1(block.norm1, pictures, shift=shift)
        states = block.conv2(block.norm2, [states], residual=_shortcut(block.conv_shortcut, pictures))
        # A division by one would copy what our own kernel has written.
        return (states if block.output_scale_factor == 1 else states / block.output_scale_factor,)


class NormSiluConv2d(nn.Module):
    """Group norm, SiLU and 3x3 convolution, plus a shift of each channel, (B, out), or a residual picture."""

    def __init__(self, conv: Any):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(
        self,
        norm: norms.GroupNorm,
        pictures: Sequence[Tensor],
        shift: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        out = F.conv2d(F.silu(norm(*pictures)), self.weight, self.bias, padding=1)
        out = out if shift is None else out + shift[:, :, None, None]
        return out if residual is None else residual + out


class Fp8NormSiluConv2d(nn.Module):
    """`NormSiluConv2d` in fp8 by two kernels; `weight` is (out, 9 * in), `weight_scale` (out,) scales the products."""

    def __init__(self, conv: Any):
        super().__init__()
        shape = (conv.out_channels, 9 * conv.in_channels)
        self.weight = nn.Parameter(torch.empty(shape, dtype=fp8.FP8, device="meta"), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty(shape[0], device="meta"), requires_grad=False)
        self.bias = conv.bias

    def forward(
        self,
        norm: norms.GroupNorm,
        pictures: Sequence[Tensor],
        shift: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        from ipa_cli.backends.inductor.kernels import convolution

        lines = convolution.silu_im2col([_channels_last(picture) for picture in pictures], *norm.scale_shift(*pictures))
        residual = None if residual is None else _channels_last(residual)
        out = convolution.conv3x3(lines, self.weight, self.weight_scale, self.bias, shift, residual)
        return out.permute(0, 3, 1, 2)


def _channels_last(picture: Tensor) -> Tensor:
    """(B, channels, height, width) as (B, height, width, channels), contiguous."""
    return picture.permute(0, 2, 3, 1).contiguous()


def fits_fp8_conv(resnet: Any, name: str, options: KernelOptions) -> bool:
    """Whether one of a residual block's `CONVOLUTIONS` can be in fp8: on Hopper, with channels in sixteens."""
    conv = getattr(resnet, name)
    if name not in options.fp8_layers or not _is_standard(resnet) or conv.bias is None or not _is_half(conv.weight):
        return False
    even = conv.in_channels % 16 == 0 and conv.out_channels % 16 == 0
    return even and options.tuning.hopper


def _is_standard(resnet: Any) -> bool:
    """Whether the block is as in Stable Diffusion, so that `ResnetBlock` may fuse its parts."""
    return resnet.time_embedding_norm == "default" and isinstance(resnet.nonlinearity, nn.SiLU)


def _shortcut(conv: Any, pictures: Sequence[Tensor]) -> Tensor:
    """The shortcut of a residual block: its 1x1 convolution, if any, as a sum of products, one for each picture."""
    if conv is None:
        return norms.cat_channels(*pictures)
    weights = conv.weight.flatten(1).split([picture.shape[1] for picture in pictures], 1)
    rows = [picture.permute(0, 2, 3, 1).flatten(1, 2) for picture in pictures]
    out = F.linear(rows[0], weights[0], conv.bias)
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        out = out + F.linear(row, weight)
    return out.unflatten(1, pictures[0].shape[2:]).permute(0, 3, 1, 2)


class TransformerInput(nn.Module):
    """From a picture to the states of transformer blocks, (B, pixels, width), and a residual of zeros."""

    def __init__(self, transformer: Any):
        super().__init__()
        self.norm, self.proj_in = norms.on_meta(transformer.norm), norms.on_meta(transformer.proj_in)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        states = self.norm(picture)
        if isinstance(self.proj_in, nn.Linear):
            states = self.proj_in(states.permute(0, 2, 3, 1).flatten(1, 2))
        else:
            states = self.proj_in(states).permute(0, 2, 3, 1).flatten(1, 2)
        return states, torch.zeros_like(states)


class TransformerBlock(nn.Module):
    """A transformer block: takes and gives states and the residual that the next block adds before its first norm."""

    def __init__(self, block: Any, context: Context | None, layer: int, options: KernelOptions):
        super().__init__()
        self.block, self.adapters = norms.on_meta(block), len(context.image) if context else 0
        self.regions = len(context.regions) if context else 0
        own, cross, feed = self.block.attn1, self.block.attn2, self.block.ff.net
        own.to_qkv = _linear(own.to_q.in_features, 3 * own.to_q.out_features, own.to_q.weight.dtype, bias=False)
        own.to_q = own.to_k = own.to_v = cross.to_k = cross.to_v = None  # those of the text are made beforehand
        for name in (name for name in options.fp8_layers if name in LINEAR):
            plain, blockwise = self.block.get_submodule(name), name == blockwise_layer(block, options)
            eight = fp8.BlockwiseFp8Linear(plain) if blockwise else fp8.Fp8Linear(plain, options.half_products)
            self.block.set_submodule(name, eight)
        own.processor, cross.processor = FusedQkvSelfAttention(), CrossAttention(0)
        chosen = options.tuning
        ours = chosen.cross_attention if "cross_attention" in options.kernels else None
        if context and ours and _fits_cross_attention(context, layer):
            cross.processor = FusedCrossAttention(ours)
        if context and chosen.geglu and "geglu" in options.kernels and _fits_geglu(feed[0], context.text[layer]):
            feed[0] = FusedGeglu(feed[0], chosen.geglu)
        if blockwise_layer(block, options):
            feed[0], feed[1] = GegluQuantize(feed[0]), nn.Identity()
        elif (
            context
            and chosen.gate_quantize
            and "gate_quantize" in options.kernels
            and "ff.net.2" in options.fp8_layers
            and _fits_gate_quantize(feed, context.text[layer])
        ):
            feed[0], feed[1] = GateQuantize(feed[0], chosen.gate_quantize), nn.Identity()
        if context and chosen.norm_quantize and "norm_quantize" in options.kernels:
            for name, serves in (
                ("norm1", "attn1.to_qkv" in options.fp8_layers),
                ("norm2", "attn2.to_q" in options.fp8_layers and isinstance(cross.processor, FusedCrossAttention)),
                ("norm3", isinstance(feed[0], GegluQuantize)),
            ):
                norm = getattr(self.block, name)
                if serves and _fits_norm_quantize(norm, context.text[layer]):
                    setattr(self.block, name, NormQuantize(norm, chosen.norm_quantize))

    def forward(self, states: Tensor, residual: Tensor, text: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        rows = [[one] for one in given]
        scale = rows.pop()[0][: self.adapters, None] if self.adapters else states.new_zeros(0, 1)
        share = [rows.pop() for _ in range(self.regions + 1)][::-1] if self.regions else []
        regions, image, mask = (rows[: self.regions], rows[self.regions :][: self.adapters], rows[self.regions :])
        context = Context([text], image, scale, mask[self.adapters :], regions, share)
        block, last = self.block, self.block.ff.net[2]
        bias = last.bias if isinstance(last, fp8.BlockwiseFp8Linear) else None
        normed, states = _normed_sum(block.norm1, [states, residual])
        normed, states = _normed_sum(block.norm2, [states, block.attn1(normed)])
        cross = block.attn2(normed, encoder_hidden_states=context)
        normed, states = _normed_sum(block.norm3, [states, cross], bias)
        return states, block.ff(normed)


def _normed_sum(norm: nn.Module, addends: Sequence[Tensor], bias: Tensor | None = None) -> tuple[Any, Tensor]:
    """A sum's norm, and the sum plus `bias`, which the kernel writes that norms it."""
    if isinstance(norm, NormQuantize):
        return norm(addends, bias)
    states = sum(addends[1:], addends[0])
    return norm(states), states if bias is None else states + bias


class TransformerOutput(nn.Module):
    """From the states of transformer blocks, in the layout of a picture, to the picture with them added."""

    def __init__(self, transformer: Any):
        super().__init__()
        self.proj_out = norms.on_meta(transformer.proj_out)

    def forward(self, states: Tensor, residual: Tensor, picture: Tensor) -> tuple[Tensor]:
        states = states + residual
        if isinstance(self.proj_out, nn.Linear):
            return (self.proj_out(states.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + picture,)
        return (self.proj_out(states) + picture,)


class Upsample(nn.Module):
    """Nearest-neighbor upsampling and a 3x3 convolution as one sub-pixel convolution of the small picture, 2x2."""

    def __init__(self, upsampler: Any):
        super().__init__()
        conv = upsampler.conv
        four = (4 * conv.out_channels, conv.in_channels, 2, 2)
        self.weight = nn.Parameter(torch.empty(four, dtype=conv.weight.dtype, device="meta"), requires_grad=False)
        self.bias = nn.Parameter(conv.bias.to("meta"), requires_grad=False)

    def forward(self, picture: Tensor) -> tuple[Tensor]:
        height, width = picture.shape[2:]
        four = F.conv2d(picture, self.weight, padding=1).unflatten(1, (2, 2, -1))
        each = [four[:, r, c, :, r : r + height, c : c + width] for r in (0, 1) for c in (0, 1)]
        # No views instead: torch 2.11 cannot trace those that join rows for a range of widths.
        pixels = F.pixel_shuffle(torch.stack(each, 2).flatten(1, 2), 2)
        return (pixels + self.bias[:, None, None],)


class OutputLayer(nn.Module):
    """From the last picture to the noise."""

    def __init__(self, unet: Any):
        super().__init__()
        self.conv_norm_out, self.conv_act = norms.on_meta(unet.conv_norm_out), unet.conv_act
        self.conv_out = norms.on_meta(unet.conv_out)

    def forward(self, picture: Tensor) -> tuple[Tensor]:
        return (self.conv_out(self.conv_act(self.conv_norm_out(picture))),)


def _linear(given: int, out: int, dtype: torch.dtype, bias: bool = True) -> nn.Linear:
    """A linear layer on the meta device."""
    return nn.Linear(given, out, bias, device="meta", dtype=dtype).requires_grad_(False)


def _fits_cross_attention(context: Context, layer: int) -> bool:
    """Whether our kernel serves this layer: one adapter without a mask, one prompt without regions."""
    return len(context.image) == 1 and not context.mask and not context.regions and _fits_depth(context.text[layer])


def _fits_depth(tokens: Tensor) -> bool:
    """Whether our kernel serves these keys and values: half precision, a head size that is a power of two."""
    depth = tokens.shape[-1]
    return _is_half(tokens) and 16 <= depth <= 128 and depth & (depth - 1) == 0


def _fits_geglu(gate: Any, like: Tensor) -> bool:
    """Whether our kernel serves `gate`: diffusers' GEGLU in half precision."""
    if type(gate).__name__ != "GEGLU" or not isinstance(gate.proj, nn.Linear) or not _is_half(like):
        return False
    return gate.proj.in_features % 64 == 0


def blockwise_layer(block: Any, options: KernelOptions) -> str | None:
    """The name of the transformer block's linear layer that runs blockwise, None where none does."""
    if not (
        options.blockwise and "geglu" in options.kernels and {"ff.net.0.proj", "ff.net.2"} <= set(options.fp8_layers)
    ):
        return None
    gate, weight = block.ff.net[0], block.ff.net[2].weight
    fours = weight.shape[1] % (4 * fp8.BLOCK) == 0  # so many of a row's squares are read at once
    even = fours and not any(size % fp8.BLOCK for size in (weight.shape[0], gate.proj.in_features))
    return "ff.net.2" if type(gate).__name__ == "GEGLU" and even and weight.dtype.itemsize == 2 else None


def _fits_gate_quantize(feed: Any, like: Tensor) -> bool:
    """Whether one thread block can hold a row between the layers: a few pieces whose width is a power of two."""
    width = feed[2].weight.shape[1]
    piece = width & -width
    return type(feed[0]).__name__ == "GEGLU" and _is_half(like) and piece >= 256 and width <= 8 * min(piece, 1024)


def _fits_norm_quantize(norm: nn.Module, like: Tensor) -> bool:
    """Whether a row is a few pieces whose width is a power of two."""
    if not isinstance(norm, nn.LayerNorm) or norm.bias is None or not _is_half(like):
        return False
    width = norm.normalized_shape[0]
    return width & -width >= 128 and width <= 8 * (width & -width)


def _is_half(tensor: Tensor) -> bool:
    return tensor.is_cuda and tensor.dtype in (torch.float16, torch.bfloat16)


def modules_of_type(unet: nn.Module, kind: str) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in unet.named_modules() if type(module).__name__ == kind)


def resnets(unet: nn.Module) -> list[tuple[str, Any]]:
    return list(modules_of_type(unet, "ResnetBlock2D"))
