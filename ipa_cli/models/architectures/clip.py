"""Prompts through CLIP's text encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ipa_cli.models.architectures.base import TextParts
    from ipa_cli.models.tokenizer import Tokenizer
    from ipa_cli.networks.clip import TextStates
    from ipa_cli.result import Reporter


def token_ids(tokenizer: Tokenizer, name: str, prompt: str, reporter: Reporter | None) -> Tensor:
    """Token ids, (1, length of the encoder's window). Warns which words no longer fit."""
    import torch

    limit, ids = tokenizer.model_max_length, tokenizer.ids(prompt)
    if reporter is not None and len(ids) > limit:
        lost = tokenizer.text(ids[limit - 1 : -1])
        reporter.warn(f"the {name} is longer than {limit - 2} tokens; left out: {lost}")
    return torch.tensor([tokenizer.window(ids)])


def encode(
    model: TextParts, number: int, name: str, prompt: str, device: torch.device, reporter: Reporter | None = None
) -> TextStates:
    """What a model's text encoder of this number gives for a prompt."""
    import torch

    ids = token_ids(model.tokenizers[number], name, prompt, reporter)
    with torch.no_grad():
        return model.text_encoders[number](ids.to(device))
