"""Settings of pictures are hostile until checked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ipa_cli.errors import IpaError
from ipa_cli.images.encode import save
from ipa_cli.images.metadata import read_settings
from tests.images.carried import PICTURE, SETTINGS, png_with


def test_settings_of_the_web_ui_are_read_as_far_as_they_go(tmp_path):
    text = "a cat\nNegative prompt: dog\nSteps: 20, Sampler: DPM++ 2M, CFG scale: nan, Seed: x, Size: 8x16, Model: m"
    assert read_settings(png_with(tmp_path / "a.png", parameters=text)) == {
        "prompt": "a cat",
        "negative_prompt": "dog",
        "steps": 20,
        "scheduler": "dpm++",
        "width": 8,
        "height": 16,
        "model": "m",
    }


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ({}, "has no settings in it"),
        ({"parameters": ""}, "has no settings in it"),
        ({"ipa": ""}, "is damaged"),
        ({"ipa": "[1]"}, "is damaged"),
        ({"ipa": "{}"}, "is damaged"),
        ({"ipa": '{"schema_version": true}'}, "is damaged"),
        ({"ipa": '{"schema_version": 2}'}, "newer ipa"),
        ({"ipa": '{"schema_version": 1, "seed": "1"}'}, 'seed is "1"'),
        ({"ipa": '{"schema_version": 1, "steps": true}'}, "steps is true"),
        ({"ipa": '{"schema_version": 1, "prompt": {"a": [1]}}'}, "prompt is"),
        ({"ipa": '{"schema_version": 1, "guidance_scale": NaN}'}, "NaN"),
        ({"ipa": '{"schema_version": 1, "adapters": [1]}'}, "adapters"),
        ({"ipa": '{"schema_version": ' + "1" * 100_000 + "}"}, "too long"),
        ({"ipa": "[" * 100_000}, "is damaged"),
        ({"ipa": "{}" + " " * (1 << 20)}, "too large for settings"),
        ({"parameters": "a" * ((1 << 20) + 1)}, "too large for settings"),
        ({"ipa": "{}" + " " * (1 << 20), "compress": True}, "is damaged"),
        ({"ipa": "x", "parameters": "a cat\nSteps: 1, Seed: 2, Size: 3x4"}, "is damaged"),
    ],
)
def test_hostile_chunks_are_refused(tmp_path, chunks, message):
    with pytest.raises(IpaError, match=message) as caught:
        read_settings(png_with(tmp_path / "a.png", **chunks))
    assert caught.value.hint


def test_what_carries_nothing_is_reported(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "a.jpg")
    Image.new("L", (2, 2)).save(tmp_path / "a.gif")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, message in (
        ("a.jpg", "has no settings in it"),
        ("a.gif", "not a readable picture"),
        ("empty.png", "not a readable picture"),
        ("none.png", "does not exist"),
        (".", "is a folder"),
        ("/dev/zero", "is a device"),
    ):
        with pytest.raises(IpaError, match=message):
            read_settings(tmp_path / name)


@given(st.data())
def test_mutated_pngs_give_settings_or_a_clear_error(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    original = folder / "original.png"
    if not original.exists():
        save(original, PICTURE, SETTINGS)
    content = bytearray(original.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    (folder / "mutated.png").write_bytes(content)
    try:
        assert isinstance(read_settings(folder / "mutated.png"), dict)
    except IpaError as error:
        assert error.hint
