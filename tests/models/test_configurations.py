"""The tables of `configurations` against the classes of diffusers and transformers: nothing of theirs is forgotten."""

import inspect
import json

import pytest

from ipa_cli.models import configurations
from tests.zoo.layouts import DEMO

PRESETS = DEMO.parent / "presets"
# What diffusers' schedulers take beside: other schedulers, and what only counts with settings that must be off.
LEFT_OUT = {"self", "args", "kwargs", "solver_p", "flow_shift", "shift_terminal", "time_shift_type"}


def parameters(kind: type) -> set[str]:
    return set(inspect.signature(kind.__init__).parameters) - LEFT_OUT


@pytest.mark.parametrize(("name", "table"), [("UNet2DConditionModel", "UNET"), ("AutoencoderKL", "VAE")])
def test_every_field_of_diffusers_models_is_in_a_table(name, table):
    import diffusers

    assert parameters(getattr(diffusers, name)) == set(getattr(configurations, table))


def test_every_setting_of_every_scheduler_is_in_the_table():
    import diffusers

    known = set().union(*(parameters(getattr(diffusers, name)) for name in configurations.SCHEDULERS))
    assert known == set(configurations.SCHEDULER)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(configurations.SCHEDULERS))
def test_what_diffusers_saves_of_a_scheduler_is_taken(tmp_path, name):
    import diffusers

    try:
        getattr(diffusers, name)().save_pretrained(tmp_path)
    except ImportError:
        pytest.skip("needs another package")
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    found = configurations.scheduler("x", saved)
    left = {key for key in saved if key not in found and not key.startswith("_")}
    assert found["_class_name"] == name and left <= LEFT_OUT


@pytest.mark.slow
def test_the_layers_of_a_unet_are_counted_as_diffusers_builds_them():
    import torch
    from diffusers import UNet2DConditionModel

    from ipa_cli.unet.attention import layers

    demo = json.loads((DEMO / "unet" / "config.json").read_text())
    for changes in (
        {},
        {"transformer_layers_per_block": [1, 2, 3]},
        {
            "transformer_layers_per_block": [1, [2, 1], [3, 1]],
            "reverse_transformer_layers_per_block": [[1, 2, 3], 2, 1],
        },
        {"layers_per_block": [1, 2, 3]},
        {"mid_block_type": None},
        {"mid_block_type": "UNetMidBlock2D"},
    ):
        config = configurations.unet("x", {**demo, **changes})
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
        widths = [unet.get_submodule(name).to_k.out_features for name in layers(unet)]
        assert configurations.cross_attention_widths(config) == widths
