"""Tokenizers made of what was checked read every text as those of transformers do."""

import pytest

from ipa_cli.models import vocabulary
from ipa_cli.models.location import folder_location
from ipa_cli.models.prompts import chunks
from ipa_cli.models.prompts.syntax import LITERAL, parse
from tests.zoo.layouts import DEMO

PRESETS = DEMO.parent / "presets"


@pytest.mark.slow
def test_the_shipped_tokenizers_are_those_that_transformers_makes():
    from transformers import CLIPTokenizer

    texts = ["a fox in the SNOW, 4k!!", "Ünïcödé ﬁ 中文", "it's <|endoftext|> x", "", " a\nb\tc 👍🏽 ", "sks_dog " * 40]
    for folder, size in ((DEMO / "tokenizer", 755), (DEMO / "tokenizer_2", 755), (PRESETS / "tokenizer", 49408)):
        read = vocabulary.read(folder_location(folder.parent), folder.name, {"vocab_size": size})
        ours, theirs = vocabulary.tokenizer(read), CLIPTokenizer.from_pretrained(folder)
        for text in texts:
            asked = {"padding": "max_length", "max_length": 77, "truncation": True}
            ids = theirs(text).input_ids
            assert [ours.bos, *ours.ids(text), ours.eos] == ids and ours.text(ids) == theirs.decode(ids)
            (chunk,), _ = chunks.chunked(parse(text, LITERAL), ours, {})
            assert list(chunk.ids) == theirs(text, **asked).input_ids


@pytest.mark.parametrize("kept", [("vocab.json", "merges.txt"), ("tokenizer.json", "tokenizer_config.json")])
def test_tokens_added_after_training_are_known(tmp_path, kept):
    """A textual inversion that was saved with its model, in the files of transformers 4 and of 5."""
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(DEMO / "tokenizer")
    theirs.add_tokens(["<cat-toy>", "<dog>"])
    folder = tmp_path / "tokenizer"
    theirs.save_pretrained(folder)
    if kept[0] == "vocab.json":
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
        for name in kept:
            (folder / name).write_bytes((DEMO / "tokenizer" / name).read_bytes())
        (folder / "added_tokens.json").write_text('{"<dog>": 756, "<cat-toy>": 755}')
    ours = vocabulary.tokenizer(vocabulary.read(folder_location(tmp_path), "tokenizer", {"vocab_size": 757}))
    text = "a <cat-toy> and <dog>s"
    assert [ours.bos, *ours.ids(text), ours.eos] == theirs(text).input_ids and 755 in ours.ids(text)


def test_merges_with_the_line_ends_of_windows_are_the_same(tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "tokenizer").mkdir(exist_ok=True)
        text = (DEMO / "tokenizer" / name).read_text(encoding="utf-8")
        (tmp_path / "tokenizer" / name).write_text(text, encoding="utf-8", newline="\r\n")
    read = [vocabulary.read(folder_location(root), "tokenizer", {"vocab_size": 755}) for root in (tmp_path, DEMO)]
    assert read[0].merges == read[1].merges and read[0].ids == read[1].ids
