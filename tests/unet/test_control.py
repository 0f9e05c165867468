"""ControlNets against diffusers': the same residuals to the bit, and those of union models."""

import pytest
import torch
from diffusers import ControlNetModel, ControlNetUnionModel

from ipa_cli.unet.attention import install, project
from ipa_cli.unet.control import ControlNet
from ipa_cli.unet.inputs import AddedConditions, ControlInputs
from tests.unet.test_model import SMALL, shapes

ENCODER = {name: value for name, value in SMALL.items() if name != "up_block_types"}
OF_SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 60,
    "transformer_layers_per_block": [1, 2],
    "use_linear_projection": True,
}
WIDTHS = {"conditioning_embedding_out_channels": [8, 12, 16, 24]}
CONFIGURATIONS = {
    "SD 1.5": WIDTHS,
    "SDXL": {**WIDTHS, **OF_SDXL},
    "small, without attention": {
        **WIDTHS,
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "mid_block_type": "UNetMidBlock2D",
    },
    "maps in BGR": {**WIDTHS, "controlnet_conditioning_channel_order": "bgr"},
    "pooled": {**WIDTHS, "global_pool_conditions": True},
}
UNION = {"num_control_type": 3, "num_trans_channel": 32, "num_trans_head": 4, "num_proj_channel": 32}


def made(kind, settings):
    """diffusers' ControlNet with random weights, also where they begin as zeros, and ours with the same."""
    torch.manual_seed(0)
    theirs = kind(**{**ENCODER, **settings}).eval()
    for weight in theirs.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    ours = ControlNet({**ENCODER, **settings}).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(batch=2):
    torch.manual_seed(1)
    added = {"text_embeds": torch.randn(batch, 12), "time_ids": torch.tensor([[64.0, 48, 0, 0, 64, 48]] * batch)}
    return torch.randn(batch, 4, 8, 6), torch.randn(batch, 7, 32), torch.rand(1, 3, 64, 48), added


def residuals_of(network, picture, kind, scale=0.7):
    sample, text, _, added = inputs()
    adapters = install(network, [])
    with torch.no_grad():
        # Convolutions round by their batch: that of diffusers, for a comparison to the bit.
        hint, embedded = network.hint(picture.expand(len(sample), -1, -1, -1), kind)
        given = ControlInputs(
            sample,
            torch.tensor(7.0),
            project(network, adapters, text),
            hint,
            torch.full((len(sample), 1, 1, 1), scale),
            AddedConditions(**added) if network.config.addition_embed_type else None,
            None if embedded is None else embedded.expand(len(sample), -1),
        )
        return network(given)


@pytest.mark.parametrize("settings", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_residuals_are_those_of_diffusers_to_the_bit(settings):
    theirs, ours = made(ControlNetModel, settings)
    sample, text, picture, added = inputs()
    with torch.no_grad():
        down, mid = theirs(
            sample, 7, text, picture.expand(2, -1, -1, -1), 0.7, added_cond_kwargs=added, return_dict=False
        )
    found = residuals_of(ours, picture, None)
    assert all(torch.equal(one, other) for one, other in zip((*found.down, found.mid), (*down, mid), strict=True))


@pytest.mark.parametrize("kind", [0, 2])
def test_a_union_model_has_the_residuals_of_diffusers(kind):
    theirs, ours = made(ControlNetUnionModel, {**WIDTHS, **OF_SDXL, **UNION})
    sample, text, picture, added = inputs()
    chosen = torch.zeros(2, 3)
    chosen[:, kind] = 1
    with torch.no_grad():
        down, mid = theirs(
            sample,
            7,
            text,
            [picture.expand(2, -1, -1, -1)],
            chosen,
            [kind],
            0.7,
            added_cond_kwargs=added,
            return_dict=False,
        )
    found = residuals_of(ours, picture, kind)
    for one, other in zip((*found.down, found.mid), (*down, mid), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("union", [False, True])
def test_parameters_have_the_names_and_shapes_of_diffusers(union):
    kind = ControlNetUnionModel if union else ControlNetModel
    settings = {**OF_SDXL, **(UNION if union else {})}
    with torch.device("meta"):
        assert shapes(ControlNet({**ENCODER, **settings})) == shapes(kind(**ENCODER, **settings))
