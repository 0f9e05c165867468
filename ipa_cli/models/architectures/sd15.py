"""Stable Diffusion 1.5: one text encoder, nothing beside the prompt."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ipa_cli.models.architectures import clip
from ipa_cli.models.architectures.base import (
    Architecture,
    Config,
    IPAdapterFiles,
    PromptEmbeds,
    Text,
    TextParts,
    latents_of,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class StableDiffusion15:
    """Diffusers' `StableDiffusionPipeline`, with UNets that predict from four latent channels."""

    name = "SD 1.5"
    preset = "sd15"
    repo = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    text_encoders: Mapping[str, bool] = {"text_encoder": False}
    tokenizers: Mapping[str, str] = {"tokenizer": "<|endoftext|>"}
    cross_attention_dim = 768
    latent_channels = 4
    latent_factor = 8
    native_size = 512
    guidance_scale = 7.5
    ip_adapters = IPAdapterFiles(
        base="models/ip-adapter_sd15.safetensors",
        plus="models/ip-adapter-plus_sd15.safetensors",
        plus_face="models/ip-adapter-plus-face_sd15.safetensors",
    )
    vae = "stabilityai/sd-vae-ft-mse"
    checkpoint_prefixes: Mapping[str, str] = {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "cond_stage_model.transformer.",
    }
    open_clip: Container[str] = ()

    def fits_unet(self, config: Config) -> bool:
        """Without added conditions and with four channels, or nine for inpainting.

        SD 2 has the same parts, and texts of width 1024.
        """
        added = ("class_embed_type", "encoder_hid_dim_type", "addition_embed_type", "upcast_attention")
        if latents_of(config, self.latent_channels) != self.latent_channels or any(config.get(key) for key in added):
            return False
        return config.get("cross_attention_dim") != 1024

    def matching_sizes(self, unet: Config, texts: Sequence[Config]) -> Mapping[str, tuple[Any, Any]]:
        """Nothing more than all architectures have."""
        return {}

    def zeros_for_empty_prompt(self, model_index: Config) -> bool:
        """An empty prompt is encoded like any other."""
        return False

    def vae_overflows_in_fp16(self, vae: Config) -> bool:
        """Its VAEs were trained in fp16's range."""
        return False

    def scheduler_changes(self, config: Config) -> Mapping[str, Any]:
        """The two settings that old repositories have wrong, see `StableDiffusionPipeline.__init__`."""
        right = {"steps_offset": 1, "clip_sample": False}
        return {key: value for key, value in right.items() if key in config}

    def checkpoint_scheduler(self, names: Container[str]) -> Mapping[str, Any]:
        """Its checkpoints mark nothing."""
        return {}

    def encode_prompts(self, model: TextParts, texts: Sequence[Text], device: torch.device) -> list[PromptEmbeds]:
        """The last hidden state, normed, as the text encoder gives it in the end."""
        return [PromptEmbeds(encoded.last) for encoded in clip.encode(model, 0, texts, device)]

    def added_conditions(self, pooled: Tensor | None, width: int, height: int) -> None:
        """The UNet takes nothing beside the prompt."""


SD15: Architecture = StableDiffusion15()
