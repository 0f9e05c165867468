"""A ControlNet in one file: what it is by names and shapes of its tensors, and these by diffusers' names.

Files have those names, or those of the first code (lllyasviel/ControlNet), with `control_model.` before them or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ipa_cli.models import configurations, kinds, weights
from ipa_cli.models.kinds import Kind
from ipa_cli.models.location import ModelError

Value = TypeVar("Value")
Shapes = Mapping[str, tuple[int, ...]]

HINT = "name a ControlNet with --control"
# ControlNets that are no encoder of a UNet, and whole models that hold one.
OTHERS = (
    Kind(r"controlnet_(x|mode)_embedder|controlnet_blocks\.|double_blocks\.", "a ControlNet for FLUX or SD 3"),
    Kind(r"motion_modules\.", "a SparseCtrl of AnimateDiff"),
    Kind(r"^brushnet_", "a BrushNet"),
    Kind(r"output_blocks\.|^up_blocks\.", "a UNet and no ControlNet", "--model"),
)
_PREFIX = "control_model."
# Names of the first code and diffusers', for those that no number is part of.
_PLAIN = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "input_hint_block.0": "controlnet_cond_embedding.conv_in",
    "input_hint_block.14": "controlnet_cond_embedding.conv_out",
    "middle_block_out.0": "controlnet_mid_block",
}
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}


def renamed(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Tensors, or their shapes, by diffusers' names; what no ControlNet has is left out where the names are others."""
    if any(name.startswith("controlnet_cond_embedding.") for name in tensors):
        return dict(tensors)
    plain = {name.removeprefix(_PREFIX): value for name, value in tensors.items()}
    first = re.compile(r"input_blocks\.(\d{1,3})\.0\.op\.weight")
    downsamplers = [int(found[1]) for found in map(first.fullmatch, plain) if found]
    named = ((_diffusers_name(name, min(downsamplers, default=1_000)), value) for name, value in plain.items())
    return {name: value for name, value in named if name is not None}


def _diffusers_name(name: str, stride: int) -> str | None:
    """The name of a tensor; `stride` is the number of the first input block that makes the picture smaller."""
    module, _, kind = name.rpartition(".")
    if module in _PLAIN:
        return f"{_PLAIN[module]}.{kind}"
    if found := re.fullmatch(r"input_hint_block\.(\d{1,2})", module):
        return f"controlnet_cond_embedding.blocks.{int(found[1]) // 2 - 1}.{kind}"
    if found := re.fullmatch(r"zero_convs\.(\d{1,3})\.0", module):
        return f"controlnet_down_blocks.{found[1]}.{kind}"
    if found := re.fullmatch(r"middle_block\.([012])\.(.+)", module):
        return f"mid_block.{_MIDDLE[found[1]]}.{_RESNET.get(found[2], found[2])}.{kind}"
    if found := re.fullmatch(r"input_blocks\.(\d{1,3})\.([01])\.(.+)", module):
        block, layer = divmod(int(found[1]) - 1, stride)
        if found[3] == "op":
            return f"down_blocks.{block}.downsamplers.0.conv.{kind}"
        part = "attentions" if found[2] == "1" else "resnets"
        return f"down_blocks.{block}.{part}.{layer}.{_RESNET.get(found[3], found[3])}.{kind}"
    return None


def configuration(path: Path, unet_config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the ControlNet in a file, by its header; what that does not tell is as in the UNet.

    Raises ModelError for anything else, said what it is where that is known.
    """
    found = weights.shapes(path)
    other = kinds.first(OTHERS, found)
    if other or "lora_controlnet" in found or not _is_controlnet(found):
        kind = other or kinds.kind_of(found, kinds.CONTROLNET) or Kind("", "no ControlNet")
        raise ModelError(f"{path} is {kind.words}", kind.advice(HINT))
    try:
        stated = _of_shapes(renamed(found))
    except (LookupError, ValueError) as error:
        lacking = f"it lacks {error}" if isinstance(error, KeyError) else "its blocks have other names, or are missing"
        raise ModelError(f"{path} is no whole ControlNet: {lacking}", "download it again, or use another") from error
    alike = {key: value for key, value in unet_config.items() if key in configurations.CONTROLNET}
    return configurations.controlnet(str(path), {**alike, **stated})


def _is_controlnet(names: Iterable[str]) -> bool:
    return any("controlnet_cond_embedding." in name or "input_hint_block." in name for name in names)


def _of_shapes(shapes: Shapes) -> dict[str, Any]:
    """What the shapes tell of a configuration."""

    def count(pattern: str) -> int:
        """How many numbers, from 0, stand in the place of the group in names that begin so."""
        return 1 + max((int(found[1]) for found in map(re.compile(pattern).match, shapes) if found), default=-1)

    blocks = count(r"down_blocks\.(\d+)\.")
    depths = [count(rf"down_blocks\.{block}\.attentions\.0\.transformer_blocks\.(\d+)\.") for block in range(blocks)]
    middle = count(r"mid_block\.attentions\.0\.transformer_blocks\.(\d+)\.")
    keys = [shape for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight")]
    inputs = [shape for name, shape in shapes.items() if name.endswith(".proj_in.weight")]
    hints = count(r"controlnet_cond_embedding\.blocks\.(\d+)\.")
    widths = [shapes[f"controlnet_cond_embedding.blocks.{number}.weight"][0] for number in range(1, hints, 2)]
    # A middle of another depth than the last block's: the configuration has one number for both.
    deepest = [*depths[:-1], depths[-1] or middle]
    found = {
        "in_channels": shapes["conv_in.weight"][1],
        "conditioning_channels": shapes["controlnet_cond_embedding.conv_in.weight"][1],
        "conditioning_embedding_out_channels": [shapes["controlnet_cond_embedding.conv_in.weight"][0], *widths],
        "block_out_channels": [shapes[f"down_blocks.{block}.resnets.0.conv1.weight"][0] for block in range(blocks)],
        "layers_per_block": count(r"down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "transformer_layers_per_block": [max(1, depth) for depth in deepest],
        "addition_embed_type": None,
    }
    if keys:
        found["cross_attention_dim"] = keys[0][1]
        found["use_linear_projection"] = len(inputs[0]) == 2
    if "add_embedding.linear_1.weight" in shapes:
        found["addition_embed_type"] = "text_time"
        found["projection_class_embeddings_input_dim"] = shapes["add_embedding.linear_1.weight"][1]
    if "task_embedding" in shapes:
        found["num_control_type"], found["num_trans_channel"] = shapes["task_embedding"]
        found["num_trans_layer"] = count(r"transformer_layes\.(\d+)\.")
        found["num_proj_channel"] = shapes["spatial_ch_projs.weight"][0]
    return found
