"""Prompts become token ids as long as the encoder's window, and what no longer fits is named."""

import pytest

from ipa_cli.models import vocabulary
from ipa_cli.models.architectures import SDXL, clip
from ipa_cli.result import NullReporter

END = 49407  # of a text, and what fills up after it


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.tokenizer(vocabulary.of_package(SDXL.tokenizers["tokenizer"]))


@pytest.fixture
def told(monkeypatch):
    """A reporter, and its warnings."""
    reporter, warnings = NullReporter(), []
    monkeypatch.setattr(reporter, "warn", warnings.append)
    return reporter, warnings


@pytest.mark.parametrize("words", [0, 1, 75])
def test_a_prompt_that_fits_gives_no_warning(tokenizer, told, words):
    reporter, warnings = told
    ids = clip.token_ids(tokenizer, "prompt", " ".join(["fox"] * words), reporter)
    assert ids.shape == (1, 77) and warnings == []
    assert (ids != END).sum() == words + 1


def test_the_words_beyond_the_window_are_named(tokenizer, told):
    reporter, warnings = told
    prompt = " ".join(["fox"] * 75 + ["in", "the", "snow"])
    ids = clip.token_ids(tokenizer, "negative prompt", prompt, reporter)
    assert ids.shape == (1, 77) and ids[0, -1] == END
    (warning,) = warnings
    assert warning.startswith("the negative prompt is longer than 75 tokens") and warning.endswith(": in the snow")


def test_without_a_reporter_a_long_prompt_is_cut_without_a_word(tokenizer):
    assert clip.token_ids(tokenizer, "prompt", "fox " * 100, None).shape == (1, 77)
