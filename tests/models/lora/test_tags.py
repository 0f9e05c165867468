"""`<lora:name:0.8>` in prompts."""

import time

import pytest

from ipa_cli.models.lora import tags


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("a star <lora:ink:1>", "a star"),
        ("a <lora:ink:1>  <lora:b> star", "a star"),
        ("a\n <lyco:ink:0.5:1>", "a"),
        ("a < b  c", "a < b  c"),
    ],
)
def test_a_prompt_is_left_without_its_tags(prompt, left):
    assert tags.without(prompt) == left


@pytest.mark.parametrize("prompt", [" " * 100_000, "<lora:" * 15_000, "<lora:a" + ":b" * 45_000])
def test_long_prompts_take_no_longer_than_their_length_needs(prompt):
    began = time.perf_counter()
    tags.without(prompt)
    assert time.perf_counter() - began < 5


def test_folders_behind_links_are_looked_through_once(tmp_path):
    (tmp_path / "loras").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "ink.safetensors").touch()
    (tmp_path / "loras" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "loras" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "loras")
    _, (found,) = tags.split("a star <lora:ink:0.5>", str(tmp_path / "loras"))
    assert found.source.endswith("ink.safetensors") and found.weight == 0.5
