"""An architecture that the package does not have: other latents, one text encoder, its pooled prompt without a size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.models.architectures import clip
from ipa_cli.models.architectures.base import IPAdapterFiles, PromptEmbeds
from ipa_cli.models.architectures.sd15 import StableDiffusion15
from tests import tiny_model
from tests.unets import TINY

if TYPE_CHECKING:
    from ipa_cli.unet.inputs import AddedConditions

CHANNELS, FACTOR = 6, 4


class Toy(StableDiffusion15):
    name = "Toy"
    preset = "toy"
    repo = "someone/toy"
    text_encoders = {"text_encoder": True}  # noqa: RUF012
    tokenizers = {"tokenizer": "<|endoftext|>"}  # noqa: RUF012
    cross_attention_dim = 32
    latent_channels = CHANNELS
    latent_factor = FACTOR
    native_size = 64
    guidance_scale = 3.0
    ip_adapters = IPAdapterFiles("toy.safetensors", "toy-plus.safetensors", "toy-plus-face.safetensors")

    def fits_unet(self, config):
        return config.get("in_channels") == CHANNELS

    def encode_prompts(self, model, texts, device):
        return [PromptEmbeds(encoded.last, encoded.pooled) for encoded in clip.encode(model, 0, texts, device)]

    def added_conditions(self, pooled: Any, width: int, height: int) -> AddedConditions:
        from ipa_cli.unet.inputs import AddedConditions

        return AddedConditions(pooled, pooled.new_zeros(len(pooled), 6))


TOY = Toy()


def write(folder: Path) -> Path:
    """Configurations of a miniature, for `--load-format dummy`."""
    unet = {**TINY, "cross_attention_dim": 32, "in_channels": CHANNELS, "out_channels": CHANNELS}
    tiny_model.write(folder, unet)
    path = folder / "vae" / "config.json"
    vae = json.loads(path.read_text())
    levels = {key: vae[key][:3] for key in ("block_out_channels", "down_block_types", "up_block_types")}
    path.write_text(json.dumps({**vae, **levels, "latent_channels": CHANNELS}))
    return folder
