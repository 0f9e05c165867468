"""Prompts through CLIP's text encoders."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from ipa_cli.hardware import devices
from ipa_cli.models.prompts import chunks, syntax
from ipa_cli.models.prompts.chunks import Chunk

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ipa_cli.models.architectures.base import Text, TextParts
    from ipa_cli.networks.clip import TextEncoder, TextStates


def encode(model: TextParts, number: int, texts: Sequence[Text], device: torch.device) -> list[TextStates]:
    """What a model's text encoder of this number gives for each prompt, by one call: (1, tokens, hidden).

    The chunks of a prompt are in a row. Its weights are applied, by the rule of its syntax; the pooled state is that of
    the first chunk, without weights, as in A1111's web UI and ComfyUI.
    """
    tokenizer, encoder = model.tokenizers[number], model.text_encoders[number]
    blank = chunks.empty(tokenizer)
    each = []
    for text in texts:
        found, _ = chunks.chunked(text.prompt, tokenizer, text.vectors[number] if text.vectors else {})
        each.append([*found, *[blank] * (text.chunks - len(found))])
    from_nothing = [_weighs_from_nothing(text, found) for text, found in zip(texts, each, strict=True)]
    states = iter(
        _states(encoder, [*(chunk for found in each for chunk in found), *[blank] * any(from_nothing)], device)
    )
    by_text = [[next(states) for _ in found] for found in each]
    nothing = next(states, None)
    return [
        _in_a_row(found, own, nothing if weighs else None)
        for found, own, weighs in zip(each, by_text, from_nothing, strict=True)
    ]


def _weighs_from_nothing(text: Text, found: Sequence[Chunk]) -> bool:
    """Whether weights go from the states of the empty prompt to those of the tokens."""
    return text.prompt.syntax == syntax.COMFYUI and any(chunk.weighted for chunk in found)


def _states(encoder: TextEncoder, many: Sequence[Chunk], device: torch.device) -> list[TextStates]:
    """The states of each chunk, (1, tokens, hidden), by one call; equal chunks without embeddings are encoded once."""
    import torch

    from ipa_cli.networks.clip import TextStates

    keys: list[Hashable] = [id(chunk) if chunk.vectors else chunk.ids for chunk in many]
    rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    distinct = list(dict(zip(keys, many, strict=True)).values())
    vectors = {(row, at): vector for row, chunk in enumerate(distinct) for at, vector in chunk.vectors.items()}
    with torch.no_grad():
        found = encoder(devices.sent(torch.tensor([chunk.ids for chunk in distinct]), device), vectors)
    return [TextStates(*(part[rows[key]][None] for part in found)) for key in keys]


def _in_a_row(found: Sequence[Chunk], states: Sequence[TextStates], nothing: TextStates | None) -> TextStates:
    """The states of a prompt's chunks with their weights; `nothing`: those of the empty prompt, where they count."""
    import torch

    from ipa_cli.networks.clip import TextStates

    pairs = list(zip(states, found, strict=True))
    if len(found) == 1 and not found[0].weighted:
        return states[0]
    penultimate = [_weighted(one.penultimate, chunk, nothing and nothing.penultimate) for one, chunk in pairs]
    last = [_weighted(one.last, chunk, nothing and nothing.last) for one, chunk in pairs]
    return TextStates(torch.cat(penultimate, 1), torch.cat(last, 1), states[0].pooled)


def _weighted(states: Tensor, chunk: Chunk, of_nothing: Tensor | None) -> Tensor:
    """States (1, tokens, hidden) with a chunk's weights.

    ComfyUI's rule goes from the states of the empty prompt, `of_nothing`, to those of the token, and beyond; A1111's
    multiplies them and restores the mean of the whole chunk ("Original" among its emphasis modes).
    """
    import torch

    if not chunk.weighted:
        return states
    plain = states.float()
    weights = devices.sent(torch.tensor(chunk.weights), states.device)[:, None]
    if of_nothing is not None:
        weighted = torch.where(weights == 1, plain, of_nothing.float().lerp(plain, weights))
    else:
        weighted = plain * weights
        weighted = weighted * (plain.mean() / weighted.mean())
    return weighted.to(states.dtype)
