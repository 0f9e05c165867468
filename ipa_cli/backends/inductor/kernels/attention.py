"""A Triton kernel for cross attention to text and image, which reads the query once.

Imported only where Triton is installed. Its plain reference in PyTorch computes the same in any precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from ipa_cli.backends.inductor.kernels.launch import launchable


@triton.jit
def _attend_any(query, keys, values, tokens, DEPTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """`_attend` for a number of tokens that is known when it runs."""
    depth = tl.arange(0, DEPTH)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    out = tl.zeros((ROWS, DEPTH), tl.float32)
    for start in range(0, tokens, BLOCK):
        token = start + tl.arange(0, BLOCK)
        at = token[:, None] * DEPTH + depth
        there = (token < tokens)[:, None]
        key = tl.load(keys + at, mask=there, other=0.0)
        value = tl.load(values + at, mask=there, other=0.0)
        score = tl.dot(query, tl.trans(key))
        score = tl.where((token < tokens)[None, :], score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, 1))
        share = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(share, 1)
        out = tl.dot(share.to(value.dtype), value, out * shrink[:, None])
        highest = higher
    return out / total[:, None]


@triton.jit
def _attend(query, keys, values, TOKENS: tl.constexpr, DEPTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """softmax(query x keys) x values for a block of rows; `query` is scaled already, for powers of two."""
    depth = tl.arange(0, DEPTH)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    out = tl.zeros((ROWS, DEPTH), tl.float32)
    for start in tl.static_range(0, TOKENS, BLOCK):
        token = start + tl.arange(0, BLOCK)
        at = token[:, None] * DEPTH + depth
        there = (token < TOKENS)[:, None]
        key = tl.load(keys + at, mask=there, other=0.0)
        value = tl.load(values + at, mask=there, other=0.0)
        score = tl.dot(query, tl.trans(key))
        score = tl.where((token < TOKENS)[None, :], score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, 1))
        share = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(share, 1)
        out = tl.dot(share.to(value.dtype), value, out * shrink[:, None])
        highest = higher
    return out / total[:, None]


@triton.jit
def cross_attention_kernel(
    query,
    text,
    image,
    scale,
    out,
    pixels,
    heads,
    to_powers_of_two,
    text_tokens,
    TEXT: tl.constexpr,
    IMAGE: tl.constexpr,
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    TEXT_BLOCK: tl.constexpr,
    IMAGE_BLOCK: tl.constexpr,
):
    """One head's block of rows: text plus scale times image; see `cross_attention` for the shapes.

    TEXT is the number of text tokens, or 0 where it is known only when it runs.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head, all_heads = tl.program_id(1), tl.num_programs(1)
    batch = head // heads
    at = (batch * pixels + row)[:, None] * (heads * DEPTH) + (head % heads) * DEPTH + tl.arange(0, DEPTH)
    there = (row < pixels)[:, None]
    query_rows = tl.load(query + at, mask=there, other=0.0)
    query_rows = (query_rows * to_powers_of_two).to(query_rows.dtype)
    own = text + head * text_tokens * DEPTH
    values = own + all_heads * text_tokens * DEPTH
    if TEXT:
        from_text = _attend(query_rows, own, values, TEXT, DEPTH, TEXT_BLOCK, ROWS)
    else:
        from_text = _attend_any(query_rows, own, values, text_tokens, DEPTH, TEXT_BLOCK, ROWS)
    own = image + head * IMAGE * DEPTH
    from_image = _attend(query_rows, own, own + all_heads * IMAGE * DEPTH, IMAGE, DEPTH, IMAGE_BLOCK, ROWS)
    tl.store(out + at, (from_text + tl.load(scale) * from_image).to(query_rows.dtype), mask=there)


@triton_op("ipa::cross_attention", mutates_args=())
def cross_attention(
    query: Tensor,
    text: Tensor,
    image: Tensor,
    scale: Tensor,
    rows: int = 128,
    text_block: int = 128,
    warps: int = 4,
    any_text: bool = False,
) -> Tensor:
    """Attention to the text plus `scale` times attention to the image, as (B, pixels, heads * d).

    query: (B, pixels, heads * d); text, image: (2, B, heads, tokens, d), keys and values; scale: float32, its first
    number counts. any_text: whether the code serves every number of text tokens.
    """
    batch, pixels = query.shape[:2]
    heads, depth = text.shape[2], text.shape[4]
    out = torch.empty_like(query)
    launchable(cross_attention_kernel)[(-(-pixels // rows), batch * heads)](
        query,
        text,
        image,
        scale,
        out,
        pixels,
        heads,
        depth**-0.5 * 1.4426950408889634,
        text.shape[3],
        0 if any_text else text.shape[3],
        image.shape[3],
        depth,
        rows,
        text_block,
        max(16, triton.next_power_of_2(image.shape[3])),
        num_warps=warps,
    )
    return out


def plain_cross_attention(query: Tensor, text: Tensor, image: Tensor, scale: Tensor) -> Tensor:
    """The reference of `cross_attention`."""
    split = query.unflatten(-1, (text.shape[2], -1)).transpose(1, 2)
    from_text = F.scaled_dot_product_attention(split, text[0], text[1])
    from_image = F.scaled_dot_product_attention(split, image[0], image[1])
    return (from_text + scale.flatten()[0].to(from_text.dtype) * from_image).transpose(1, 2).flatten(2)
