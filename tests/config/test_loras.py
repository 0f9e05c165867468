"""The text of `--lora`, and what is read from it."""

import pytest

from ipa_cli.config import LoraConfig, resolve
from ipa_cli.config.loras import parse
from ipa_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("style.safetensors", LoraConfig("style.safetensors")),
        ("me/style", LoraConfig("me/style")),
        ("me/style:in/a.safetensors", LoraConfig("me/style", "in/a.safetensors")),
        ("a, b.safetensors,weight=0.8", LoraConfig("a, b.safetensors", weight=0.8)),
        ("a.safetensors, weight=0.8", LoraConfig("a.safetensors", weight=0.8)),
        ("a.safetensors,weight=-1,text_weight=0", LoraConfig("a.safetensors", None, -1.0, 0.0)),
    ],
)
def test_a_text_says_file_and_weights_and_is_written_back(text, config):
    assert parse(text, "--lora") == config
    assert parse(str(config), "--lora") == config


def test_a_file_on_disk_may_have_a_colon_in_its_name(tmp_path):
    path = tmp_path / "a:b.safetensors"
    path.touch()
    assert parse(f"{path},weight=2", "--lora") == LoraConfig(str(path), weight=2.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a file, folder or repository"),
        ("weight=1", "expected a file, folder or repository"),
        ("a.safetensors,wight=1", "unknown key 'wight'; did you mean 'weight'?"),
        ("a.safetensors,weight=much", "weight=much: expected a number"),
        ("a.safetensors,weight=nan", "expected a number from -20 to 20"),
        ("a.safetensors,weight=1,weight=2", "has a weight twice"),
        ("me/style:../a.safetensors", "expected a name inside the repository"),
    ],
)
def test_what_makes_no_sense_is_refused(text, words):
    with pytest.raises(UsageError, match=r"--lora") as caught:
        parse(text, "--lora")
    assert words in caught.value.message


def test_flag_environment_and_file_are_read_alike(world, monkeypatch):
    expected = (LoraConfig("a.safetensors", weight=0.5),)
    (world.cwd / "ipa.toml").write_text('lora = "a.safetensors,weight=0.5"\n')
    assert resolve({}).settings.lora == expected
    monkeypatch.setenv("IPA_LORA", "b.safetensors,weight=0.5")
    assert resolve({}).settings.lora == (LoraConfig("b.safetensors", weight=0.5),)
    assert resolve({"lora": ("a.safetensors,weight=0.5",)}).settings.lora == expected
