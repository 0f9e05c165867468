"""ControlNets with random weights for a model in a folder, as diffusers saves them, and in other layouts."""

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, ControlNetUnionModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file

WIDTHS = (8, 12, 16, 24)
KINDS = {"union": ControlNetUnionModel}
UNION: dict[str, Any] = {"num_control_type": 6, "num_trans_head": 4}


def save(model: Path, folder: Path, seed: int = 0, kind: str = "", std: float = 0.1, **settings: Any) -> Path:
    """A ControlNet of the shape of the model's UNet, whose residuals are not zero."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)
    first = unet.config.block_out_channels[0]
    made = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=WIDTHS)
    torch.manual_seed(seed)
    if kind == "union":
        config = {**made.config, **UNION, "num_trans_channel": first, "num_proj_channel": first}
        config = {key: value for key, value in config.items() if key != "mid_block_type"}
        union = ControlNetUnionModel.from_config(config)
        union.load_state_dict(made.state_dict(), strict=False)
        made = union
    if kind == "small":
        levels = len(unet.config.down_block_types)
        config = {**made.config, "down_block_types": ["DownBlock2D"] * levels, "mid_block_type": "UNetMidBlock2D"}
        made = ControlNetModel.from_config(config)
    if settings:
        made.register_to_config(**settings)
    for weight in made.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=std)
    made.save_pretrained(folder)
    return folder


def as_first_code(folder: Path, path: Path) -> Path:
    """The same ControlNet in one file with the names of lllyasviel's code."""
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    layers = 1 + max(int(name.split(".")[3]) for name in state if name.startswith("down_blocks.0.resnets."))
    save_file({f"control_model.{_first(name, layers)}": tensor for name, tensor in state.items()}, path)
    return path


def _first(name: str, layers: int) -> str:
    plain = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        "controlnet_cond_embedding.conv_out": "input_hint_block.14",
        "controlnet_mid_block": "middle_block_out.0",
    }
    resnet = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    module, _, kind = name.rpartition(".")
    if module in plain:
        return f"{plain[module]}.{kind}"
    first, *rest = module.split(".")
    if first == "controlnet_cond_embedding":
        return f"input_hint_block.{2 * int(rest[1]) + 2}.{kind}"
    if first == "controlnet_down_blocks":
        return f"zero_convs.{rest[0]}.0.{kind}"
    if first == "mid_block":
        place = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}[".".join(rest[:2])]
        inner = ".".join(resnet.get(part, part) if rest[0] == "resnets" else part for part in rest[2:])
        return f"middle_block.{place}.{inner}.{kind}"
    block, part, layer, *inner = rest
    number = int(block) * (layers + 1) + 1
    if part == "downsamplers":
        return f"input_blocks.{number + layers}.0.op.{kind}"
    names = ".".join(resnet.get(each, each) if part == "resnets" else each for each in inner)
    return f"input_blocks.{number + int(layer)}.{1 if part == 'attentions' else 0}.{names}.{kind}"
