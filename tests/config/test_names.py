"""Names that other programs give to settings: ours is suggested, not the one that is spelt alike."""

from pathlib import Path

import pytest

from ipa_cli.config import FIELDS
from ipa_cli.config.names import OTHERS, meant


def test_each_stands_for_a_setting_and_is_none_itself():
    assert set(OTHERS.values()) <= set(FIELDS) and not set(OTHERS) & set(FIELDS)


@pytest.mark.parametrize(
    ("name", "setting"),
    [("cfg_scale", "guidance_scale"), ("CFG Scale", "guidance_scale"), ("denoising-strength", "strength"),
     ("Negative prompt", "negative_prompt"), ("Sampler", "scheduler"), ("prompt_", "prompt_"), ("Steps", "steps")],
)  # fmt: skip
def test_it_is_found_however_it_is_written(name, setting):
    assert meant(name) == setting


def test_it_is_suggested_wherever_settings_are_named(ipa, world, monkeypatch):
    Path("jobs.csv").write_text("id,cfg scale\na,7\n")
    for typed in ("batch jobs.csv", "config set cfg_scale 7"):
        assert "did you mean 'guidance_scale'?" in ipa(*typed.split(), "--json").error()["message"]
    assert "did you mean '--strength'?" in ipa("generate", "--denoising-strength", 0.5, "--json").error()["message"]
    monkeypatch.setenv("IPA_CFG_SCALE", "7")
    assert "did you mean 'IPA_GUIDANCE_SCALE'?" in ipa("generate", "--json").error()["message"]


def test_the_second_name_of_a_flag_serves_wherever_settings_are_named(ipa, world, monkeypatch):
    ipa("config", "set", "sampler", "tcd")
    assert ipa("config", "get", "scheduler", "--json").data()["value"] == "tcd"
    ipa("config", "set", "scheduler", "lcm")
    assert ipa("config", "get", "sampler", "--json").data()["value"] == "lcm"
    ipa("config", "unset", "sampler")
    monkeypatch.setenv("IPA_SAMPLER", "ddim")
    found = ipa("config", "get", "scheduler", "--json").data()
    assert (found["value"], found["where"]) == ("ddim", "IPA_SAMPLER")
    monkeypatch.setenv("IPA_SCHEDULER", "ddpm")
    said = ipa("config", "get", "scheduler", "--json").error()["message"]
    assert "IPA_SAMPLER and IPA_SCHEDULER are both set" in said
