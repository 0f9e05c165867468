"""Prompts become as many windows of the encoder as they need, cut where other programs cut them."""

import pytest
import torch

from ipa_cli.models import vocabulary
from ipa_cli.models.architectures import SDXL
from ipa_cli.models.prompts import chunks
from ipa_cli.models.prompts.syntax import A1111, COMFYUI, LITERAL, parse

BEGIN, END, FOX, COMMA = 49406, 49407, 3240, 267


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.tokenizer(vocabulary.of_package(SDXL.tokenizers["tokenizer"]))


def chunked(tokenizer, text, syntax=A1111, vectors=None):
    found, _ = chunks.chunked(parse(text, syntax), tokenizer, vectors or {})
    for chunk in found:
        assert len(chunk.ids) == len(chunk.weights) == 77 and chunk.ids[0] == BEGIN and END in chunk.ids
    return found


def lengths(found):
    return [chunk.ids.index(END) - 1 for chunk in found]


@pytest.mark.parametrize("syntax", [A1111, COMFYUI, LITERAL])
@pytest.mark.parametrize("words", [0, 1, 75])
def test_a_prompt_that_fits_is_one_window(tokenizer, syntax, words):
    (chunk,) = chunked(tokenizer, " ".join(["fox"] * words), syntax)
    assert chunk.ids == (BEGIN, *[FOX] * words, *[END] * (76 - words)) and not chunk.weighted


@pytest.mark.parametrize(("words", "expected"), [(76, [75, 1]), (150, [75, 75]), (151, [75, 75, 1])])
@pytest.mark.parametrize("syntax", [A1111, COMFYUI])
def test_a_longer_one_takes_more(tokenizer, syntax, words, expected):
    assert lengths(chunked(tokenizer, "fox " * words, syntax)) == expected


def test_what_does_not_fit_a_literal_prompt_is_told(tokenizer):
    prompt = parse("fox " * 75 + "in the snow", LITERAL)
    (chunk,), lost = chunks.chunked(prompt, tokenizer, {})
    assert chunk.ids[-1] == END and tokenizer.text(lost) == "in the snow"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fox " * 70 + ", " + "fox " * 10, [71, 10]),  # the four words after the comma go along
        ("fox " * 55 + ", " + "fox " * 30, [56, 30]),
        ("fox " * 54 + ", " + "fox " * 30, [75, 10]),  # a comma more than 20 tokens before the end
        ("fox " * 74 + ", " + "fox", [75, 1]),
        ("fox " * 75 + ", " + "fox", [75, 2]),
        ("a BREAK b", [1, 1]),
        ("BREAK", [0]),
        ("BREAK BREAK", [0, 0]),
        ("a BREAK", [1]),
        ("fox " * 70 + ", fox BREAK " + "fox " * 76, [72, 75, 1]),
    ],
)
def test_a1111_cuts_at_a_comma_near_the_end_and_at_break(tokenizer, text, expected):
    assert lengths(chunked(tokenizer, text)) == expected


def test_comfyui_keeps_short_fragments_together(tokenizer):
    assert lengths(chunked(tokenizer, "fox " * 72 + "(fox fox fox fox:1.2)", COMFYUI)) == [72, 4]
    assert lengths(chunked(tokenizer, "fox " * 72 + "(fox fox fox fox fox fox fox fox:1.2)", COMFYUI)) == [75, 5]


def test_weights_follow_their_tokens(tokenizer):
    (chunk,) = chunked(tokenizer, "a (red fox:1.3) [in]")
    assert [round(weight, 3) for weight in chunk.weights[:6]] == [1, 1, 1.3, 1.3, 0.909, 1]
    first, second = chunked(tokenizer, "fox " * 75 + "(fox:2)")
    assert not first.weighted and second.weights[:3] == (1, 2, 1)


@pytest.mark.parametrize("syntax", [A1111, COMFYUI, LITERAL])
def test_an_embedding_stands_for_its_word(tokenizer, syntax):
    vectors = {"<Cat>": torch.ones(3, 4), "cat": torch.zeros(1, 4)}
    (chunk,) = chunked(tokenizer, "a <cat>, cats CAT", syntax, vectors)
    assert sorted(chunk.vectors) == [2, 3, 4, 7] and chunk.ids.index(END) == 8
    assert chunk.vectors[2].sum() == 4 and chunk.vectors[7].sum() == 0


def test_an_embedding_is_not_cut_by_a1111(tokenizer):
    vectors = {"toy": torch.ones(8, 4)}
    first, second = chunked(tokenizer, "fox " * 70 + "(toy:1.2)", vectors=vectors)
    assert not first.vectors and sorted(second.vectors) == list(range(1, 9)) and second.weights[1:10] == (*[1.2] * 8, 1)
    assert lengths([first, second]) == [70, 8]
    assert lengths(chunked(tokenizer, "fox " * 70 + "(toy:1.2)", COMFYUI, vectors)) == [75, 3]
