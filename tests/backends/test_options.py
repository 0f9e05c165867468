"""Compile options: presets, JSON, mappings."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_cli.backends import get
from ipa_cli.backends.options import read_options
from ipa_cli.errors import UsageError

PRESETS = {"fast": {"flag": True, "number": 1, "any": None}, "max": {"flag": False, "number": 2, "any": None}}


@pytest.mark.parametrize("nothing", [None, "", {}, "{}", "fast", '{"preset": "fast"}'])
def test_first_preset_is_the_default(nothing):
    assert read_options("toy", nothing, PRESETS) == PRESETS["fast"]


def test_changes_stand_on_a_preset():
    assert read_options("toy", '{"preset": "max", "any": [1]}', PRESETS) == {**PRESETS["max"], "any": [1]}
    assert PRESETS["max"]["any"] is None


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("quick", "fast, max"),
        ({"speed": 9}, "flag, number, any"),
        ('{"flag": 1}', '{"flag": true}'),
        ('{"number": true}', '{"number": 1}'),
        ("{flag: true}", "fast"),
        ("{" * 10_000, "fast"),
        ({"preset": ["fast"]}, "fast, max"),
    ],
)
def test_what_is_not_known_is_refused_and_the_known_listed(wrong, told):
    with pytest.raises(UsageError) as failure:
        read_options("toy", wrong, PRESETS)
    assert told in failure.value.hint


@given(st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_text_is_read_or_refused(text):
    try:
        options = read_options("toy", text, PRESETS)
    except UsageError:
        return
    assert options.keys() == PRESETS["fast"].keys()


def test_backends_are_known_by_name():
    with pytest.raises(UsageError, match="turbo") as failure:
        get("turbo")
    assert "eager" in failure.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"dynamic": [256, 100]},
        {"dynamic": [256, 1001]},
        {"dynamic": 512},
        {"dynamic": [8, 64]},
        {"dynamic": [True, 512]},
        {"text": [308, 77]},
        {"text": [77]},
        {"text": "77..308"},
        {"kernels": ["unknown"]},
        {"fp8_layers": ["norm1"]},
        {"precision": "fp4"},
        {"inductor": {"no_such_setting": 1}},
    ],
)
def test_impossible_values_of_inductor_are_refused(wrong):
    with pytest.raises(UsageError) as failure:
        get("inductor").options(wrong)
    assert failure.value.hint


def test_settings_of_inductor_pass():
    options = get("inductor").options({"dynamic": [256, 1536], "inductor": {"triton.cudagraphs": False}})
    assert options["dynamic"] == [256, 1536]
