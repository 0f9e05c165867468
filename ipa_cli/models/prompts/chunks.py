"""Parsed prompts as chunks of token ids: windows of a text encoder, as many as the prompt needs.

A1111 moves what follows a comma in the last tokens of a full chunk into the next one; ComfyUI keeps fragments of up to
seven tokens together; literal prompts have one chunk, as in diffusers' pipelines, and the rest is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ipa_cli.models.prompts import syntax
from ipa_cli.models.prompts.syntax import Prompt, whole_words

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.models.tokenizer import Tokenizer

BACKTRACK = 20  # A1111's default for `comma_padding_backtrack`, in tokens
SHORT = 8  # ComfyUI's `max_word_length`: a fragment of fewer tokens is not cut


class Token(NamedTuple):
    """A token's id and weight; the embedding that takes its place, (hidden,), in textual inversion."""

    id: int
    weight: float = 1.0
    vector: Tensor | None = None


Piece = Sequence[Token]  # of one fragment; an embedding's tokens stay together


@dataclass(frozen=True)
class Chunk:
    """The ids of one window and their weights, and embeddings in place of those of the ids at some positions."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    vectors: Mapping[int, Tensor]

    @property
    def weighted(self) -> bool:
        """Whether any weight differs from 1."""
        return any(weight != 1 for weight in self.weights)


def chunked(
    prompt: Prompt, tokenizer: Tokenizer, vectors: Mapping[str, Tensor]
) -> tuple[tuple[Chunk, ...], tuple[int, ...]]:
    """The chunks of a prompt, at least one, and the ids that are left out of a literal one.

    vectors: textual inversion, (tokens, hidden) for each word that it stands for.
    """
    size = tokenizer.model_max_length - 2
    sections = [list(_pieces(section, tokenizer, vectors)) for section in prompt.sections]
    if prompt.syntax == syntax.A1111:
        comma = tokenizer.number(",</w>")
        filled = [chunk for section in sections for chunk in _by_commas(section, size, comma)]
        if len(filled) > 1 and not filled[-1]:
            filled.pop()  # nothing follows the last BREAK
    elif prompt.syntax == syntax.COMFYUI:
        filled = _by_fragments(sections[0], size)
    else:
        tokens = [token for piece in sections[0] for token in piece]
        return (_window(tokens[:size], tokenizer),), tuple(token.id for token in tokens[size:])
    return tuple(_window(tokens, tokenizer) for tokens in filled), ()


def empty(tokenizer: Tokenizer) -> Chunk:
    """The chunk of an empty prompt."""
    return _window((), tokenizer)


def _pieces(
    section: Sequence[syntax.Fragment], tokenizer: Tokenizer, vectors: Mapping[str, Tensor]
) -> Iterator[list[Token]]:
    by_name = {name.lower(): found for name, found in vectors.items()}
    for text, weight in section:
        # `split` with a group gives text and names in turn.
        for number, part in enumerate(whole_words(list(vectors)).split(text) if vectors else [text]):
            if number % 2:
                yield [Token(0, weight, vector) for vector in by_name[part.lower()]]
            else:
                yield [Token(id, weight) for id in tokenizer.ids(part)]


def _by_commas(pieces: Sequence[Piece], size: int, comma: int | None) -> list[list[Token]]:
    """As A1111's `tokenize_line`: the chunks of one section."""
    chunks: list[list[Token]] = [[]]
    after_comma = 0  # where the words after the last comma of the chunk begin
    for piece in pieces:
        whole = bool(piece) and piece[0].vector is not None
        for at, token in enumerate(piece):
            here = chunks[-1]
            if token.vector is None and token.id == comma:
                after_comma = len(here) + 1
            elif len(here) == size and after_comma and size - after_comma < BACKTRACK:
                chunks[-1], rest = here[:after_comma], here[after_comma:]
                chunks.append(rest)
                after_comma = 0
            if len(chunks[-1]) + (len(piece) if whole and at == 0 else 1) > size:
                chunks.append([])
                after_comma = 0
            chunks[-1].append(token)
    return chunks


def _by_fragments(pieces: Sequence[Piece], size: int) -> list[list[Token]]:
    """As `tokenize_with_weights` of ComfyUI's `SDTokenizer`."""
    chunks: list[list[Token]] = [[]]
    for piece in pieces:
        rest = list(piece)
        while len(chunks[-1]) + len(rest) > size:
            room = size - len(chunks[-1]) if len(piece) >= SHORT else 0
            chunks[-1] += rest[:room]
            rest = rest[room:]
            chunks.append([])
        chunks[-1] += rest
    return chunks


def _window(tokens: Sequence[Token], tokenizer: Tokenizer) -> Chunk:
    filling = tokenizer.model_max_length - 2 - len(tokens)
    ids = (tokenizer.bos, *(token.id for token in tokens), tokenizer.eos, *[tokenizer.pad] * filling)
    weights = (1.0, *(token.weight for token in tokens), 1.0, *[1.0] * filling)
    vectors = {at: token.vector for at, token in enumerate(tokens, 1) if token.vector is not None}
    return Chunk(ids, weights, vectors)
