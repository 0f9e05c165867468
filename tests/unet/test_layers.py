"""Modes and tables of layers against the layers that diffusers reaches with them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ipa_cli
from ipa_cli.errors import UsageError
from ipa_cli.unet import layers
from ipa_cli.unet.attention import layers as names_of
from tests.unets import diffusers_unet, tiny_unet

SDXL = json.loads((Path(ipa_cli.__file__).parent / "presets" / "sdxl" / "unet" / "config.json").read_text())
KNOWN = layers.blocks(SDXL)


def test_blocks_are_those_of_the_built_unet():
    unet = tiny_unet()
    places = {name.split(".transformer_blocks")[0] for name in names_of(unet)}
    found = layers.blocks(dict(unet.config))
    assert found == {"down.block_1": 1, "up.block_0": 2, "mid": 1}
    assert len(places) == sum(found.values())


def test_blocks_of_sdxl():
    assert KNOWN == {"down.block_1": 2, "down.block_2": 2, "up.block_0": 3, "up.block_1": 3, "mid": 1}


@pytest.mark.parametrize(
    ("mode", "table"),
    [
        ("style", {"up": {"block_0": [0.0, 1.0, 0.0]}}),
        ("layout", {"down": {"block_2": [0.0, 1.0]}}),
        ("style-layout", {"down": {"block_2": [0.0, 1.0]}, "up": {"block_0": [0.0, 1.0, 0.0]}}),
        ("full", {"down": 1, "mid": 1, "up": 1}),
    ],
)
def test_modes_are_instantstyles_tables(mode, table):
    assert layers.of_mode(mode, KNOWN) == layers.parse(json.dumps(table), KNOWN)


@pytest.mark.parametrize(
    "table", [{"down": 0.5}, {"mid": [0.3]}, {"up": {"block_0": [0.2, 0.7]}}, {"up": {"block_0": 0.4}, "mid": 1}]
)
def test_a_table_reaches_the_layers_it_reaches_in_diffusers(table):
    from diffusers.loaders.unet_loader_utils import _maybe_expand_lora_scales

    unet = tiny_unet()
    names = names_of(unet)
    (expanded,) = _maybe_expand_lora_scales(diffusers_unet(), [table], default_scale=0.0)
    expected = [next(value for place, value in expanded.items() if name.startswith(place)) for name in names]
    assert layers.factors(names, layers.parse(json.dumps(table), layers.blocks(dict(unet.config)))) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "no JSON object"),
        ("{}", "no JSON object"),
        ('{"dwn": 1}', "did you mean 'down'?"),
        ('{"down": {"block_0": 1}}', "blocks of down: block_1, block_2"),
        ('{"down": {"block_2": [1, 1, 1]}}', "down.block_2 has 2 attentions"),
        ('{"down": {"block_2": []}}', "down.block_2 has 2 attentions"),
        ('{"down": {"block_2": [NaN, 1]}}', "NaN"),
        ('{"down": -1}', "-1"),
        ('{"down": true}', "true"),
        ('{"down": "1"}', '"1"'),
        ('{"mid": {"block_0": 1}}', "no blocks"),
        ('{"mid": 0}', "0 everywhere"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_a_wrong_table_is_reported(text, words):
    with pytest.raises(UsageError) as caught:
        layers.parse(text, KNOWN)
    assert words in caught.value.message + caught.value.hint and caught.value.hint


WORDS = st.sampled_from(["down", "up", "mid", "block_0", "block_2", "x"])
TABLES = st.recursive(
    st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner)
)


@given(TABLES)
def test_any_table_is_a_pattern_or_refused(table):
    try:
        pattern = layers.parse(json.dumps(table), KNOWN)
    except UsageError:
        return
    assert all(len(factors) == KNOWN[block] for block, factors in pattern.items())
