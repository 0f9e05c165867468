"""Prompts through CLIP's text encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipa_cli.hardware import devices
from ipa_cli.models.prompts import chunks, syntax
from ipa_cli.models.prompts.chunks import Chunk

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ipa_cli.models.architectures.base import Text, TextParts
    from ipa_cli.networks.clip import TextEncoder, TextStates


def encode(model: TextParts, number: int, text: Text, device: torch.device) -> TextStates:
    """What a model's text encoder of this number gives for a prompt: (1, tokens, hidden), its chunks in a row.

    Its weights are applied, by the rule of its syntax; the pooled state is that of the first chunk, without weights, as
    in A1111's web UI and ComfyUI.
    """
    import torch

    from ipa_cli.networks.clip import TextStates

    tokenizer, encoder = model.tokenizers[number], model.text_encoders[number]
    vectors = text.vectors[number] if text.vectors else {}
    found, _ = chunks.chunked(text.prompt, tokenizer, vectors)
    blank = chunks.empty(tokenizer)
    found = (*found, *[blank] * (text.chunks - len(found)))
    of_nothing = None
    if text.prompt.syntax == syntax.COMFYUI and any(chunk.weighted for chunk in found):
        of_nothing = _states(encoder, blank, device)
    pooled, penultimate, last = None, [], []
    for chunk in found:
        states = _states(encoder, chunk, device)
        pooled = states.pooled if pooled is None else pooled
        penultimate.append(_weighted(states.penultimate, chunk, of_nothing and of_nothing.penultimate))
        last.append(_weighted(states.last, chunk, of_nothing and of_nothing.last))
    assert pooled is not None
    return TextStates(torch.cat(penultimate, 1), torch.cat(last, 1), pooled)


def _states(encoder: TextEncoder, chunk: Chunk, device: torch.device) -> TextStates:
    import torch

    with torch.no_grad():
        ids = devices.sent(torch.tensor([chunk.ids]), device)
        return encoder(ids, {(0, at): vector for at, vector in chunk.vectors.items()})


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
