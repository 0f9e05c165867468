"""Prompts as tensors; with guidance the negative half comes first, as in diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ipa_cli.models.architectures.base import PromptEmbeds, Text
from ipa_cli.models.prompts import chunks, syntax
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ipa_cli.models.loader import Model
    from ipa_cli.pipeline.task import Request


def encode_texts(
    model: Model, requests: Sequence[Request], device: torch.device, reporter: Reporter
) -> list[list[PromptEmbeds]]:
    """For each request the prompts of the picture, then those of each region, see `PromptEmbeds`; B is 2 with guidance.

    Those of a request all have as many chunks as its longest: chunks of the empty prompt fill up the others. Each text
    encoder is called once. Warns which words of a literal prompt do not fit.
    """
    each = []
    for request in requests:
        found = [_texts(model, one, reporter) for one in _with_regions(request)]
        longest = max(text.chunks for texts in found for text in texts)
        each.append([[replace(text, chunks=longest) for text in texts] for texts in found])
    every = [text for found in each for texts in found for text in texts]
    encoded = iter(model.architecture.encode_prompts(model, every, device))
    return [
        [_halves([next(encoded) for _ in texts], request.guided) for texts in found]
        for request, found in zip(requests, each, strict=True)
    ]


def _with_regions(request: Request) -> list[Request]:
    """The request, and one with the prompts of each of its regions."""
    each = [request]
    for one in request.regions:
        negative = request.negative_prompt if one.negative is None else one.negative
        each.append(replace(request, prompt=one.prompt, negative_prompt=negative, regions=()))
    return each


def _texts(model: Model, request: Request, reporter: Reporter) -> list[Text]:
    """The prompt, and the negative one where it is encoded, each with its number of chunks."""
    zeros = not request.negative_prompt and model.zeros_for_empty_prompt
    texts = {"prompt": request.prompt}
    if request.guided and not zeros:
        texts["negative prompt"] = request.negative_prompt
    vectors = _vectors(model, request)
    found = {name: Text(syntax.parse(text, request.prompt_syntax), vectors) for name, text in texts.items()}
    return [replace(text, chunks=_count(model, name, text, reporter)) for name, text in found.items()]


def _halves(encoded: Sequence[PromptEmbeds], guided: bool) -> PromptEmbeds:
    """Both halves of a batch with guidance, of a prompt and its negative one; without the latter that is zeros."""
    import torch

    positive, *negative = encoded
    if not guided:
        return positive
    if negative:
        pairs = list(zip(negative[0], positive, strict=True))
    else:
        pairs = [(None if states is None else torch.zeros_like(states), states) for states in positive]
    return PromptEmbeds(*(torch.cat([one, two]) for one, two in pairs if one is not None and two is not None))


def _count(model: Model, name: str, text: Text, reporter: Reporter) -> int:
    """The number of chunks of a prompt, with a word on more than one and on what is left out."""
    tokenizer = model.tokenizers[0]
    found, lost = chunks.chunked(text.prompt, tokenizer, text.vectors[0] if text.vectors else {})
    if lost:
        limit = tokenizer.model_max_length - 2
        reporter.warn(f"the {name} is longer than {limit} tokens; left out: {tokenizer.text(lost)}")
    if len(found) > 1:
        reporter.note(
            f"the {name} takes {len(found)} chunks of {tokenizer.model_max_length} tokens; "
            "each number of chunks has compiled graphs of its own"
        )
    return len(found)


def _vectors(model: Model, request: Request) -> list[dict[str, Tensor]]:
    """The textual inversions of a request, for each text encoder, by every word that stands for one."""
    parts = range(len(model.text_encoders)) if request.embeddings else ()
    return [{word: one.vectors[part] for one in request.embeddings for word in one.words} for part in parts]
