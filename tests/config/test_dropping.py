"""`none` in place of a setting's value, wherever it is given."""

from pathlib import Path

import pytest

from ipa_cli.batch import jobs
from ipa_cli.config import FIELDS, Settings, resolve
from ipa_cli.config.dropping import DROPPABLE
from ipa_cli.config.loras import LoraConfig
from ipa_cli.config.values import element_type, from_json, from_python, from_text, from_toml
from ipa_cli.engine import keywords
from ipa_cli.errors import UsageError


@pytest.mark.parametrize("name", DROPPABLE)
def test_none_is_the_default_from_every_source(name):
    assert FIELDS[name].default in (None, ())
    assert from_text(name, "none", name) == FIELDS[name].default
    assert from_toml(name, name, "none", Path("ipa.toml")) == FIELDS[name].default
    for value in ("none", ["none"]) if FIELDS[name].default == () else ("none",):
        assert from_json(name, value, name) == from_python(name, value) == FIELDS[name].default
    found = resolve({name: ("none",) if FIELDS[name].default == () else "none"}, reads_project=False)
    assert getattr(found.settings, name) == FIELDS[name].default and found.sources[name].kind == "flag"


def test_a_job_and_a_request_drop_what_they_would_have_else():
    base = Settings(lora=(LoraConfig("style.safetensors"),), hires="1.5")
    fence = jobs.Fence(Path.cwd(), Path.cwd())
    job = jobs.of_mapping(1, {"id": "a", "prompt": "star", "lora": "none", "hires": "none"}, "line 1", fence)
    assert (job.values["lora"], job.values["hires"]) == ((), None)
    again = jobs.of_json(job.as_json())
    assert again.values == job.values
    asked, _ = keywords.of_request(base, {"lora": "none", "hires": "none"})
    assert (asked.lora, asked.hires) == ((), None)


def test_none_stands_alone_and_is_a_word_elsewhere():
    with pytest.raises(UsageError, match="--lora none is given beside another --lora"):
        resolve({"lora": ("none", "style.safetensors")}, reads_project=False)
    found = resolve({"prompt": "none", "ip_adapter": "none", "step_cache": "none"}, reads_project=False).settings
    assert (found.prompt, found.ip_adapter, found.step_cache) == ("none", "none", "none")
    assert resolve({"image": ("./none",)}, reads_project=False).settings.image == ("./none",)


def test_every_setting_without_a_default_can_be_dropped_or_says_what_none_is():
    without = {name for name, one in FIELDS.items() if one.default in (None, ()) and name not in DROPPABLE}
    words = {"prompt", "ip_adapter", "server", "image"}
    numbers = {name for name in without - words if element_type(name) in (int, float)}
    assert without - words == numbers


def test_none_in_place_of_references_is_kept(tmp_path):
    asked = resolve({"image": ("none",)}, {"IPA_IMAGE": "cat.png"}, reads_project=False).settings
    assert asked.image == ("none",) and asked.adapters[0].image == () and asked.adapters[0].follows_none
    assert from_text("image", "none", "") == from_toml("image", "image", "none", tmp_path) == ("none",)
    assert from_json("image", ["none"], "") == from_python("image", "none") == ("none",)
    with pytest.raises(UsageError, match="--image none is given beside another --image"):
        resolve({"image": ("none", "cat.png")}, reads_project=False)
    (tmp_path / "ipa.toml").write_text('image = "none"')
    (inside := tmp_path / "deep").mkdir()
    assert resolve({}, {}, inside).settings.image == ("none",)


def test_config_set_takes_none(ipa, world):
    for name in ("hires", "lora", "image", "cache_remote"):
        assert ipa("config", "set", "--project", name, "none").exit_code == 0
    shown = ipa("config", "show", "--json").data()["settings"]
    assert (shown["hires"]["value"], shown["lora"]["value"], shown["image"]["value"]) == (None, [], ["none"])
