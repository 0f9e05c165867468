"""The text of `--adapter` against the plain flags it stands for."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_cli.config import Settings, adapter_options
from ipa_cli.config.adapter_options import parse
from ipa_cli.config.adapters import SETTINGS
from ipa_cli.errors import UsageError

PLAIN = Settings(scale=0.3, fit="crop")


def adapters(settings: Settings, *texts: str):
    return replace(settings, adapter=tuple(parse(text, "--adapter") for text in texts)).adapters


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("own", {}),
        ("image=a.png", {"image": ("a.png",)}),
        ("own,image=a, b.png,scale=1", {"image": ("a, b.png",), "scale": 1.0}),
        ("own,weight=1,weight=0.5,image=a.png,image=b.png", {"image": ("a.png", "b.png"), "image_weight": (1.0, 0.5)}),
        ("someone/thing", {"ip_adapter": "someone/thing"}),
        (
            "someone/thing:in/a.safetensors,mode=style",
            {
                "ip_adapter": "someone/thing",
                "ip_adapter_subfolder": "in",
                "ip_adapter_weight_name": "a.safetensors",
                "ip_mode": "style",
            },
        ),
        ('own,layers={"down": 1, "up": 0.5},end=0.5', {"ip_layers": '{"down": 1, "up": 0.5}', "ip_end": 0.5}),
        ("own,image=https://example.org/a.png?b=1", {"image": ("https://example.org/a.png?b=1",)}),
        ("https://example.org/a:b", {"ip_adapter": "https://example.org/a:b"}),
    ],
)
def test_a_specification_stands_for_flags(text, values):
    (config,) = adapters(PLAIN, text)
    plain = replace(PLAIN, **values)
    assert {name: getattr(config, name) for name in SETTINGS} == {
        name: getattr(plain, setting) for name, setting in SETTINGS.items()
    }


def test_without_a_specification_the_plain_settings_are_the_only_adapter():
    (config,) = adapters(replace(PLAIN, image=("a.png",), ip_mode="style"))
    assert (config.image, config.scale, config.fit, config.mode) == (("a.png",), 0.3, "crop", "style")


def test_a_file_on_disk_may_have_a_colon_in_its_name(tmp_path):
    path = tmp_path / "a:b.safetensors"
    path.touch()
    config = parse(f"{path},scale=1", "--adapter")
    assert (config.source, config.file) == (str(path), None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("own,image=a.png,embeds=b.safetensors", "both image and embeds"),
        ("own,scale=0.1,scale=0.2", "has scale twice"),
        ("own,scal=0.1", "did you mean 'scale'?"),
        ("own,scale=many", "--adapter: scale"),
        ("own,scale=11", "expected a number from 0 to 10"),
        ("own,weight=-1,image=a.png", "expected a number from 0 to 10"),
    ],
)
def test_a_specification_that_contradicts_itself_or_has_a_wrong_value_is_refused(text, words):
    with pytest.raises(UsageError) as refused:
        parse(text, "--adapter")
    assert words in refused.value.message and refused.value.message.startswith("--adapter")


@pytest.mark.parametrize("text", ["own", "own,image=a.png", "own,scale=0.5", "image=a.png,scale=0.25"])
def test_a_scale_made_explicit_is_read_back(text):
    explicit = str(parse(text, "--adapter").with_scale(0.1))
    (config,) = adapters(PLAIN, explicit)
    assert config.scale == 0.1


@pytest.mark.parametrize("name", ["image", "image_weight", "mask", "embeds", "ip_adapter", "ip_adapter_subfolder"])
def test_plain_settings_of_one_adapter_are_refused_beside_a_specification(name):
    value = {"image_weight": (1.0,), "image": ("a",), "mask": ("a",)}.get(name, "a")
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} and --adapter are both given"):
        adapters(replace(PLAIN, **{name: value}), "own")


@given(st.text() | st.lists(st.sampled_from(["own", "scale=", "image=", ",", "1", "nan", ":", "x"])).map("".join))
def test_any_text_is_an_adapter_that_reads_back_or_a_usage_error(text):
    try:
        config = adapter_options.parse(text, "--adapter")
    except UsageError as error:
        assert error.hint
    else:
        assert adapter_options.parse(str(config), "--adapter") == config
