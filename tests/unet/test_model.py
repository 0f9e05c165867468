"""The UNet against diffusers': the same noise to the bit, for every kind of configuration that is let through."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

import ipa_cli
from ipa_cli.unet.attention import install, project
from ipa_cli.unet.inputs import AddedConditions, ControlResiduals, UNetInputs
from ipa_cli.unet.model import UNet

PACKAGE = Path(ipa_cli.__file__).parent
SMALL = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
CONFIGURATIONS = {
    "SD 1.5": {},
    "shift and scale": {"resnet_time_scale_shift": "scale_shift", "act_fn": "mish"},
    "no attention in the middle": {"mid_block_type": "UNetMidBlock2D"},
    "no middle": {"mid_block_type": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1},
    "unlike depths": {
        "transformer_layers_per_block": [1, 3],
        "attention_head_dim": [4, 8],
        "layers_per_block": [1, 2],
        "use_linear_projection": True,
        "center_input_sample": True,
        "mid_block_scale_factor": 1.4,
    },
    "depths by layer": {
        "transformer_layers_per_block": [[1, 1], [2, 3]],
        "reverse_transformer_layers_per_block": [[3, 2, 1], [1, 1, 1]],
    },
    "SDXL": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 60,
    },
}


def config(folder: str) -> dict:
    read = json.loads((PACKAGE / folder / "unet" / "config.json").read_text(encoding="utf-8"))
    return {name: value for name, value in read.items() if not name.startswith("_")}


@pytest.mark.parametrize("folder", ["demo", "presets/sdxl", "presets/sd15"])
def test_parameters_have_the_names_and_shapes_of_diffusers(folder):
    with torch.device("meta"):
        ours, theirs = UNet(config(folder)), UNet2DConditionModel.from_config(config(folder))
    assert shapes(ours) == shapes(theirs)


def shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(16, 16), (10, 14)])
@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_the_noise_is_that_of_diffusers_to_the_bit(changes, size, dtype):
    torch.manual_seed(0)
    theirs = UNet2DConditionModel.from_config({**SMALL, **changes}).eval()
    for parameter in theirs.parameters():
        parameter.data = parameter.data.to(dtype)
    ours = UNet({**SMALL, **changes}).eval().to(dtype)
    ours.load_state_dict(theirs.state_dict())
    adapters = install(theirs, [])
    for name, module in ours.named_modules():
        if type(module).__name__ == "Attention":
            module.processor = theirs.attn_processors[f"{name}.processor"]
    context = project(theirs, adapters, torch.randn(2, 7, 32, dtype=dtype))
    added = None
    if "addition_embed_type" in changes:
        added = AddedConditions(torch.randn(2, 12, dtype=dtype), torch.tensor([[64, 64, 0, 0, 64, 64]] * 2).to(dtype))
    inputs = UNetInputs(torch.randn(2, 4, *size, dtype=dtype), torch.tensor(501.0), context, added)
    with torch.no_grad():
        expected = theirs(
            inputs.sample,
            inputs.timestep,
            encoder_hidden_states=context,
            added_cond_kwargs=vars(added) if added else None,
            return_dict=False,
        )[0]
        assert torch.equal(ours(inputs), expected)


def test_residuals_of_a_controlnet_are_added_where_diffusers_adds_them():
    torch.manual_seed(0)
    theirs, ours = UNet2DConditionModel.from_config(SMALL).eval(), UNet(SMALL).eval()
    ours.load_state_dict(theirs.state_dict())
    adapters = install(theirs, [])
    for name, module in ours.named_modules():
        if type(module).__name__ == "Attention":
            module.processor = theirs.attn_processors[f"{name}.processor"]
    context = project(theirs, adapters, torch.randn(1, 7, 32))
    widths = ((32, 16), (32, 16), (32, 16), (32, 8), (64, 8), (64, 8))
    down = tuple(torch.randn(1, width, side, side) for width, side in widths)
    control = ControlResiduals(down, torch.randn(1, 64, 8, 8))
    inputs = UNetInputs(torch.randn(1, 4, 16, 16), torch.tensor(3.0), context, control=control)
    with torch.no_grad():
        expected = theirs(
            inputs.sample,
            inputs.timestep,
            encoder_hidden_states=context,
            down_block_additional_residuals=control.down,
            mid_block_additional_residual=control.mid,
            return_dict=False,
        )[0]
        assert torch.equal(ours(inputs), expected)
