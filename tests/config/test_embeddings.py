"""The text of `--embedding`, and what is read from it."""

import pytest

from ipa_cli.config import EmbeddingConfig, resolve
from ipa_cli.config.embeddings import parse
from ipa_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("style.safetensors", EmbeddingConfig("style.safetensors")),
        ("me/style", EmbeddingConfig("me/style")),
        ("me/style:in/a.pt", EmbeddingConfig("me/style", "in/a.pt")),
        ("a, b.safetensors,token=<my-style>", EmbeddingConfig("a, b.safetensors", None, "<my-style>")),
    ],
)
def test_a_text_says_file_and_token_and_is_written_back(text, config):
    assert parse(text, "--embedding") == config
    assert parse(str(config), "--embedding") == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a file or repository"),
        ("token=x", "expected a file or repository"),
        ("a.pt,tokem=x", "unknown key 'tokem'; did you mean 'token'?"),
        ("a.pt,token=", "the token '' is not one word"),
        ("a.pt,token=two words", "the token 'two words' is not one word"),
        ("a.pt,token=(x)", "is not one word"),
        ("a.pt,token=x,token=y", "has a token twice"),
        ("me/style:../a.pt", "expected a name inside the repository"),
    ],
)
def test_what_makes_no_sense_is_refused(text, words):
    with pytest.raises(UsageError, match=r"--embedding") as caught:
        parse(text, "--embedding")
    assert words in caught.value.message


def test_flag_environment_and_file_are_read_alike(world, monkeypatch):
    expected = (EmbeddingConfig("a.pt", None, "x"),)
    (world.cwd / "ipa.toml").write_text('embedding = "a.pt,token=x"\n')
    assert resolve({}).settings.embedding == expected
    monkeypatch.setenv("IPA_EMBEDDING", "b.pt")
    assert resolve({}).settings.embedding == (EmbeddingConfig("b.pt"),)
    assert resolve({"embedding": ("a.pt,token=x",)}).settings.embedding == expected
