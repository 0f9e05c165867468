"""Prompts through CLIP's text encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ipa_cli.models.loader import Model
    from ipa_cli.result import Reporter


def token_ids(tokenizer: Any, name: str, prompt: str, reporter: Reporter | None) -> Tensor:
    """Token ids, (1, length of the encoder's window). Warns which words no longer fit."""
    limit = tokenizer.model_max_length
    ids = tokenizer(prompt, padding="max_length", max_length=limit, truncation=True, return_tensors="pt").input_ids
    if reporter is not None:
        whole = tokenizer(prompt).input_ids
        if len(whole) > limit:
            lost = tokenizer.decode(whole[limit - 1 : -1])
            reporter.warn(f"the {name} is longer than {limit - 2} tokens; left out: {lost}")
    return ids


def encode(
    model: Model, number: int, name: str, prompt: str, device: torch.device, reporter: Reporter | None = None
) -> Any:
    """What a model's text encoder of this number gives for a prompt, all hidden states included."""
    import torch

    ids = token_ids(model.tokenizers[number], name, prompt, reporter)
    with torch.no_grad():
        return model.text_encoders[number](ids.to(device), output_hidden_states=True)
