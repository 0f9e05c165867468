"""The names by which LoRA files call the weights of a model.

diffusers and PEFT write "unet.<module>", kohya's trainers "lora_unet_<module>" with `_` for `.`, for SDXL by the names
of LDM's UNet. See diffusers' `lora_conversion_utils` and ComfyUI's `lora.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_IN_A_BLOCK = re.compile(r"(down|mid|up)_block(?:s\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
# Attention processors of diffusers before 0.22, by what they stand for: in the UNet, and in text encoders.
_PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora$")
_OF_TEXT = re.compile(r"\.self_attn\.to_(q|k|v|out)_lora$")
_WRAPPED = re.compile(r"^(unet\.)?base_model\.model\.")  # by PEFT's model
# PEFT's name of an adapter, "default" or another, which its own files leave out.
_ADAPTER = re.compile(r"(\.lora_(?:A|B|magnitude_vector))\.(?!weight$)[\w-]+\.weight$")


def of_ldm(module: str, layers: int, transformers: Sequence[bool]) -> str | None:
    """The name of a UNet's module in LDM's code; None for one that it has not.

    `layers` are the residual blocks of each block on the way down; `transformers` says which blocks up have them.
    """
    if module in _OUTSIDE:
        return _OUTSIDE[module]
    found = _IN_A_BLOCK.fullmatch(module)
    if found is None:
        return None
    way, block, kind, number, rest = found.groups()
    at = int(block or 0) * (layers + 1) + int(number)
    inner = _RESNET.get(rest, rest)
    if way == "mid":
        return f"middle_block.{2 * int(number) if kind == 'resnets' else 1}.{inner}"
    if kind == "downsamplers":
        return f"input_blocks.{(int(block) + 1) * (layers + 1)}.0.{'op' if rest == 'conv' else rest}"
    if kind == "upsamplers":
        return f"output_blocks.{int(block) * (layers + 1) + layers}.{1 + transformers[int(block)]}.{rest}"
    place = f"input_blocks.{1 + at}" if way == "down" else f"output_blocks.{at}"
    return f"{place}.{0 if kind == 'resnets' else 1}.{inner}"


def of_unet(module: str, layers: int, transformers: Sequence[bool]) -> list[str]:
    """All names of a UNet's module: diffusers', kohya's, SimpleTuner's, and by LDM's also ComfyUI's, OneTrainer's."""
    names = [f"unet.{module}", module, f"lora_unet_{_joined(module)}", f"lycoris_{_joined(module)}"]
    ldm = of_ldm(module, layers, transformers)
    if ldm is None:
        return names
    return [*names, f"lora_unet_{_joined(ldm)}", f"diffusion_model.{ldm}", *([f"unet.{ldm}"] if ldm != module else [])]


def of_text_encoder(part: str, module: str) -> list[str]:
    """All names of a text encoder's module.

    kohya's trainers count the encoders of a model that has several; ComfyUI takes both forms for any first one.
    OneTrainer and ComfyUI call CLIP's ViT-L "clip_l", and ViT-bigG "clip_g".
    """
    second = part.endswith("_2")
    clip = "clip_g" if second else "clip_l"
    counted = ["lora_te2"] if second else ["lora_te1", "lora_te"]
    dotted = [f"{prefix}.{module}" for prefix in (part, clip, f"text_encoders.{clip}.transformer")]
    return [*dotted, *(f"{prefix}_{_joined(module)}" for prefix in counted)]


def usual(module: str) -> str:
    """A module's name without PEFT's wrapping, and as diffusers has it since its attention processors hold none."""
    module = _WRAPPED.sub(r"\1", module)
    module = _PROCESSOR.sub(lambda found: f".to_{found[1]}{'.0' * (found[1] == 'out')}", module)
    return _OF_TEXT.sub(lambda found: f".self_attn.{found[1]}_proj", module)


def without_adapter(name: str) -> str:
    """A tensor's name without that of PEFT's adapter: "….lora_A.default.weight" is "….lora_A.weight"."""
    return _ADAPTER.sub(r"\1.weight", name)


def _joined(module: str) -> str:
    return module.replace(".", "_")
