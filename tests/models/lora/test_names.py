"""The names of a model's weights in LoRA files, against diffusers' conversion of kohya's names."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import ipa_cli
from ipa_cli.models.lora import names
from ipa_cli.networks.common import without_weights
from ipa_cli.unet.model import UNet

PRESETS = Path(ipa_cli.__file__).parent / "presets"
FOLDERS = {"sdxl": PRESETS / "sdxl", "sd15": PRESETS / "sd15", "demo": PRESETS.parent / "demo"}


@pytest.fixture(scope="module", params=FOLDERS)
def unet(request):
    with without_weights():
        return UNet(json.loads((FOLDERS[request.param] / "unet/config.json").read_text()))


def weights(unet) -> list[str]:
    return [name.removesuffix(".weight") for name, one in unet.state_dict().items() if one.ndim > 1]


def diffusers_names(unet, kohya: list[str]) -> list[str | None]:
    """What diffusers makes of kohya's names of these modules, in the same order; None for one that it drops."""
    from diffusers.loaders import lora_conversion_utils as conversion
    from diffusers.utils import convert_unet_state_dict_to_peft

    state = {}
    for number, name in enumerate(kohya):
        state[f"{name}.lora_down.weight"] = state[f"{name}.lora_up.weight"] = torch.tensor([float(number)])
    config = SimpleNamespace(layers_per_block=unet.config.layers_per_block)
    state = conversion._maybe_map_sgm_blocks_to_diffusers(state, config)
    state, _ = conversion._convert_non_diffusers_lora_to_diffusers(state)
    state = convert_unet_state_dict_to_peft({k.removeprefix("unet."): v for k, v in state.items()})
    found = {int(v): k.removesuffix(".lora_A.weight") for k, v in state.items() if k.endswith(".lora_A.weight")}
    return [found.get(number) for number in range(len(kohya))]


def test_kohyas_names_with_ldms_are_what_diffusers_takes_them_for(unet):
    if unet.config.addition_embed_type is None:
        pytest.skip("trainers use LDM's names for SDXL alone")
    up = [hasattr(block, "attentions") for block in unet.up_blocks]
    modules = weights(unet)
    ldm = [names.of_ldm(name, unet.config.layers_per_block, up) for name in modules]
    assert None not in ldm and len(set(ldm)) == len(modules)
    kohya = [f"lora_unet_{name.replace('.', '_')}" for name in ldm]
    for name, module in zip(kohya, modules, strict=True):
        assert name in names.of_unet(module, unet.config.layers_per_block, up)
    assert diffusers_names(unet, kohya) == modules


def test_kohyas_names_with_diffusers_names_are_what_diffusers_takes_them_for(unet):
    modules = weights(unet)
    kohya = [next(n for n in names.of_unet(name, 2, [True] * 9) if n.startswith("lora_unet_")) for name in modules]
    theirs = diffusers_names(unet, kohya)
    lost = [module for module, name in zip(modules, theirs, strict=True) if name != module]
    assert all(module.startswith("add_embedding.") for module in lost)  # which no trainer names so


def test_no_two_modules_share_a_name(unet):
    up = [hasattr(block, "attentions") for block in unet.up_blocks]
    every = [name for module in weights(unet) for name in names.of_unet(module, unet.config.layers_per_block, up)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize(
    ("written", "module"),
    [
        ("a.attn1.processor.to_q_lora", "a.attn1.to_q"),
        ("a.attn2.processor.to_out_lora", "a.attn2.to_out.0"),
        ("text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora", None),
        ("a.attn1.to_q", "a.attn1.to_q"),
    ],
)
def test_names_of_attention_processors(written, module):
    assert names.usual(written) == (module or "text_encoder.text_model.encoder.layers.0.self_attn.out_proj")
