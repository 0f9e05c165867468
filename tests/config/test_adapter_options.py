"""Specifications of adapters against the plain flags they stand for."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_cli.config import Settings, adapter_options
from ipa_cli.errors import UsageError

PLAIN = Settings(scale=0.3, fit="crop")


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
    ],
)
def test_a_specification_stands_for_flags(text, values):
    assert adapter_options.each(replace(PLAIN, adapter=(text,))) == (replace(PLAIN, **values),)


def test_without_one_the_flags_are_it():
    assert adapter_options.each(PLAIN) == (PLAIN,)


def test_a_file_on_disk_may_have_a_colon_in_its_name(tmp_path):
    path = tmp_path / "a:b.safetensors"
    path.touch()
    (one,) = adapter_options.each(Settings(adapter=(f"{path},scale=1",)))
    assert (one.ip_adapter, one.ip_adapter_weight_name) == (str(path), None)


@pytest.mark.parametrize("text", ["own", "own,image=a.png", "own,scale=0.5", "image=a.png,scale=0.25"])
def test_a_scale_made_explicit_is_read_back(text):
    (one,) = adapter_options.each(Settings(adapter=(adapter_options.with_scale(text, 0.1),)))
    assert one.scale == (float(text.rpartition("=")[2]) if "scale" in text else 0.1)


@given(st.text() | st.lists(st.sampled_from(["own", "scale=", "image=", ",", "1", "nan", ":", "x"])).map("".join))
def test_any_text_is_settings_or_words(text):
    try:
        (one,) = adapter_options.each(Settings(adapter=(text,)))
    except UsageError as error:
        assert error.hint
    else:
        assert one.adapter == ()
