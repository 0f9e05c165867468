"""Cross attention and self attention, in several ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from pieces_common import DEVICE, HALF, LEVELS, Call, Group, normal, weight
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ipa_cli.backends.inductor.kernels import attention

CUDNN, FLASH = SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION


def cross() -> Iterator[Group]:
    """Text and image cross attention with one query."""
    for pixels, heads, layers in LEVELS:
        for tokens in (4, 16):
            query = [normal(2, pixels, heads * 64) for _ in range(2)]
            text = [normal(2, 2, heads, 77, 64) for _ in range(8)]
            image = [normal(2, 2, heads, tokens, 64) for _ in range(8)]
            scale = torch.tensor([0.37], device=DEVICE)[0]

            def plain(i: int, backend: SDPBackend, query=query, text=text, image=image, scale=scale) -> Tensor:
                split = query[i % 2].unflatten(-1, (text[i].shape[2], -1)).transpose(1, 2)
                with sdpa_kernel(backend):
                    seen = F.scaled_dot_product_attention(split, text[i][0], text[i][1])
                    shown = F.scaled_dot_product_attention(split, image[i][0], image[i][1])
                return torch.addcmul(seen, shown, scale.to(HALF)).transpose(1, 2).flatten(2)

            def fused(i: int, query=query, text=text, image=image, scale=scale, **blocks: int) -> Tensor:
                return attention.cross_attention(query[i % 2], text[i], image[i], scale, **blocks)

            def expected(i: int, query=query, text=text, image=image, scale=scale) -> Tensor:
                given = (query[i % 2].float(), text[i].float(), image[i].float())
                return attention.plain_cross_attention(*given, scale)

            ways: dict[str, Call] = {
                "two cuDNN": lambda i, plain=plain: plain(i, CUDNN),
                "two flash": lambda i, plain=plain: plain(i, FLASH),
            }
            shapes = [(128, 128, 4), (128, 128, 8), (64, 128, 4), (64, 32, 4), (64, 16, 4)]
            for rows, block, warps in shapes if tokens == 4 else shapes[:1]:
                ways[f"triton {rows} rows, {block}, {warps} warps"] = lambda i, f=fused, r=rows, b=block, w=warps: f(
                    i, rows=r, text_block=b, warps=w
                )
            yield Group("cross", f"{pixels} px, {tokens} tokens", layers, ways, expected)


def attend(query: Tensor, key: Tensor, value: Tensor, backend: SDPBackend) -> Tensor:
    """(B, heads, pixels, 64) three times to (B, pixels, heads * 64)."""
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def self_attention() -> Iterator[Group]:
    """Queries, keys and values as one product or three, and attention on strided views of one."""
    for pixels, heads, layers in LEVELS:
        width = heads * 64
        states = [normal(2, pixels, width) for _ in range(2)]
        weights = [weight(3 * width, width) for _ in range(8)]

        def three(i: int, states=states, weights=weights) -> list[Tensor]:
            return [F.linear(states[i % 2], part) for part in weights[i].chunk(3)]

        def one(i: int, states=states, weights=weights) -> tuple[Tensor, ...]:
            return F.linear(states[i % 2], weights[i]).chunk(3, dim=-1)

        def split(parts: Any, heads: int = heads) -> list[Tensor]:
            return [part.unflatten(-1, (heads, 64)).transpose(1, 2) for part in parts]

        def expected(i: int, split: Any = split, states=states, weights=weights) -> Tensor:
            query, key, value = split(F.linear(states[i % 2].float(), weights[i].float()).chunk(3, dim=-1))
            outs = [
                F.scaled_dot_product_attention(*(x[:, h : h + 1] for x in (query, key, value)))
                for h in range(query.shape[1])
            ]
            return torch.cat(outs, 1).transpose(1, 2).flatten(2)

        flop = 2 * 2 * pixels * width * 3 * width
        yield Group("self", f"{pixels} px, products", layers, {"three": three, "one": one}, flop=flop)
        apart, together = split(three(0)), split(one(0))
        yield Group(
            "self",
            f"{pixels} px, attention",
            layers,
            {
                "cuDNN": lambda i, q=apart: attend(*q, CUDNN),
                "cuDNN strided": lambda i, q=together: attend(*q, CUDNN),
                "flash": lambda i, q=apart: attend(*q, FLASH),
                "flash strided": lambda i, q=together: attend(*q, FLASH),
            },
            flop=4 * 2 * heads * pixels**2 * 64,
        )
        yield Group(
            "self",
            f"{pixels} px, both",
            layers,
            {
                "three, cuDNN": lambda i, three=three, split=split: attend(*split(three(i)), CUDNN),
                "one, cuDNN": lambda i, one=one, split=split: attend(*split(one(i)), CUDNN),
                "one, flash": lambda i, one=one, split=split: attend(*split(one(i)), FLASH),
            },
            expected,
            flop + 4 * 2 * heads * pixels**2 * 64,
        )
