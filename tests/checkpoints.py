"""Models in diffusers' folders as one file, in the names of the first code of SD 1.5 (LDM) and SDXL (SGM)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ipa_cli.models.plan import DEMO

if TYPE_CHECKING:
    from torch import Tensor

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT = {"sdxl": "conditioner.embedders.0.transformer.", "sd15": "cond_stage_model.transformer."}
TEXT_2 = "conditioner.embedders.1.model."

_OUTER = (
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^add_embedding\.linear_1", "label_emb.0.0"),
    (r"^add_embedding\.linear_2", "label_emb.0.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
)
_RESNET = (
    (r"\bnorm1\b", "in_layers.0"),
    (r"\bconv1\b", "in_layers.2"),
    (r"\btime_emb_proj\b", "emb_layers.1"),
    (r"\bnorm2\b", "out_layers.0"),
    (r"\bconv2\b", "out_layers.3"),
    (r"\bconv_shortcut\b", "skip_connection"),
)
_VAE = (
    (r"\bdown_blocks\.(\d)\.resnets\.", r"down.\1.block."),
    (r"\bdown_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"\bup_blocks\.(\d)\.resnets\.", r"up.\1.block."),
    (r"\bup_blocks\.(\d)\.upsamplers\.0", r"up.\1.upsample"),
    (r"\bmid_block\.resnets\.0", "mid.block_1"),
    (r"\bmid_block\.resnets\.1", "mid.block_2"),
    (r"\bmid_block\.attentions\.0", "mid.attn_1"),
    (r"\bconv_shortcut\b", "nin_shortcut"),
    (r"\bconv_norm_out\b", "norm_out"),
    (r"\bgroup_norm\b", "norm"),
    (r"\bto_([qkv])\b", r"\1"),
    (r"\bto_out\.0\b", "proj_out"),
)
_OPEN_CLIP = (
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_projection\.weight", "text_projection"),
    (r"\bself_attn\b", "attn"),
    (r"\blayer_norm(\d)", r"ln_\1"),
    (r"\bfc1\b", "c_fc"),
    (r"\bfc2\b", "c_proj"),
)


def tensors(folder: Path, kind: str) -> dict[str, Tensor]:
    """The tensors of a model folder (kind: sdxl or sd15) under their first names."""
    import json

    from safetensors.torch import load_file

    stems = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
    parts = ("unet", "vae", "text_encoder", *(("text_encoder_2",) if kind == "sdxl" else ()))
    states = {part: load_file(folder / part / f"{stems.get(part, 'model')}.safetensors") for part in parts}
    config = json.loads((folder / "unet" / "config.json").read_text())
    return {name: tensor.contiguous() for name, tensor in renamed(states, kind, config["layers_per_block"]).items()}


@contextmanager
def presets(root: Path, kind: str, folder: Path) -> Iterator[None]:
    """Give files of one architecture (sdxl or sd15) the configurations and the tokenizer of the model in `folder`.

    One file holds no configuration, so that those of the package count, whose widths fill gigabytes.
    """
    from ipa_cli.models import architectures, single_file, vocabulary

    shutil.copytree(folder, root / kind, ignore=shutil.ignore_patterns("*.safetensors", "ip_adapter"))
    shutil.copytree(DEMO / "tokenizer", root / "tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_file, "PRESETS", root)
        patch.setattr(vocabulary, "PRESETS", root)
        for one in architectures.TABLE:
            patch.setattr(type(one), "tokenizers", dict.fromkeys(one.tokenizers, "<|endoftext|>"))
        yield


def renamed(states: Mapping[str, Mapping[str, Tensor]], kind: str, layers: int) -> dict[str, Tensor]:
    """The tensors of each part of a model under their first names."""
    found = unet(states["unet"], layers) | vae(states["vae"])
    found |= {TEXT[kind] + _wrapped(name): tensor for name, tensor in states["text_encoder"].items()}
    return found | (open_clip(states["text_encoder_2"]) if kind == "sdxl" else {})


def unet(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """A UNet's tensors; `layers`: residual blocks of each level on the way down."""
    return {UNET + _unet_name(name, layers, state): tensor for name, tensor in state.items()}


def _unet_name(name: str, layers: int, names: Any) -> str:
    name = _replaced(name, _OUTER)
    if match := re.match(r"down_blocks\.(\d)\.(resnets|attentions|downsamplers)\.(\d)\.(?:conv\b)?", name):
        block, kind, layer = int(match[1]), match[2], int(match[3])
        number = 1 + block * (layers + 1) + (layers if kind == "downsamplers" else layer)
        inside = {"resnets": "0.", "attentions": "1.", "downsamplers": "0.op"}[kind]
        name = f"input_blocks.{number}.{inside}{name[match.end() :]}"
    elif match := re.match(r"up_blocks\.(\d)\.(resnets|attentions|upsamplers)\.(\d)\.", name):
        block, kind, layer = int(match[1]), match[2], int(match[3])
        number = block * (layers + 1) + (layers if kind == "upsamplers" else layer)
        attends = any(other.startswith(f"up_blocks.{block}.attentions.") for other in names)
        inside = {"resnets": 0, "attentions": 1, "upsamplers": 2 if attends else 1}[kind]
        name = f"output_blocks.{number}.{inside}.{name[match.end() :]}"
    return name if "transformer_blocks" in name else _replaced(name, _RESNET)


def vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A VAE's tensors; its attention was made of convolutions of one pixel."""
    levels = 1 + max(int(match[1]) for name in state if (match := re.match(r"decoder\.up_blocks\.(\d)", name)))

    def up(match: re.Match[str]) -> str:
        return f"decoder.up_blocks.{levels - 1 - int(match[1])}"

    found = {}
    for name, tensor in state.items():
        old = _replaced(re.sub(r"^decoder\.up_blocks\.(\d)", up, name), _VAE)
        found[VAE + old] = tensor[..., None, None] if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", old) else tensor
    return found


def open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of SDXL's second text encoder: query, key and value are one, and the projection lies."""
    import torch

    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        old = TEXT_2 + _replaced(name, _OPEN_CLIP)
        if match := re.fullmatch(r"(.*\.attn)\.q_proj\.(weight|bias)", old):
            all_three = [state[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            found[f"{match[1]}.in_proj_{match[2]}"] = torch.cat(all_three)
        elif not re.search(r"\.(k|v)_proj\.", old):
            found[old] = tensor.T if old.endswith("text_projection") else tensor
    return found


def _wrapped(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"


def _replaced(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        name = re.sub(old, new, name)
    return name
