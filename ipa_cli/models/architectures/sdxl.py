"""Stable Diffusion XL: two text encoders, the pooled prompt and the picture's size beside it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ipa_cli.hardware import devices
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

    from ipa_cli.unet.inputs import AddedConditions


class StableDiffusionXL:
    """Diffusers' `StableDiffusionXLPipeline`, the base model."""

    name = "SDXL"
    preset = "sdxl"
    repo = "stabilityai/stable-diffusion-xl-base-1.0"
    text_encoders: Mapping[str, bool] = {"text_encoder": False, "text_encoder_2": True}
    # OpenAI's CLIP and OpenCLIP fill up differently.
    tokenizers: Mapping[str, str] = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}
    cross_attention_dim = 2048
    latent_channels = 4
    latent_factor = 8
    native_size = 1024
    guidance_scale = 5.0
    ip_adapters = IPAdapterFiles(
        base="sdxl_models/ip-adapter_sdxl.safetensors",
        plus="sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
        plus_face="sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors",
        face_plus_is_v2=True,
    )
    vae = "madebyollin/sdxl-vae-fp16-fix"
    checkpoint_prefixes: Mapping[str, str] = {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    }
    open_clip: Container[str] = ("text_encoder_2",)

    def fits_unet(self, config: Config) -> bool:
        """With the "text_time" conditions and four channels, or nine for inpainting."""
        if latents_of(config, self.latent_channels) != self.latent_channels:
            return False
        other = config.get("class_embed_type") or config.get("encoder_hid_dim_type")
        return config.get("addition_embed_type") == "text_time" and not other

    def matching_sizes(self, unet: Config, texts: Sequence[Config]) -> Mapping[str, tuple[Any, Any]]:
        """The added conditions, and the windows of the two text encoders."""
        pooled, each = texts[1].get("projection_dim", 512), unet.get("addition_time_embed_dim") or 0
        first, second = (text.get("max_position_embeddings", 77) for text in texts)
        return {
            "projection_class_embeddings_input_dim of the UNet, what its text encoder and its sizes give": (
                unet.get("projection_class_embeddings_input_dim"),
                pooled + 6 * each if each else None,
            ),
            "max_position_embeddings of the text encoders": (first, second),
        }

    def zeros_for_empty_prompt(self, model_index: Config) -> bool:
        """Zeros unless the model says otherwise."""
        return bool(model_index.get("force_zeros_for_empty_prompt", True))

    def vae_overflows_in_fp16(self, vae: Config) -> bool:
        """Its config says `force_upcast`, for which diffusers takes fp32."""
        return bool(vae.get("force_upcast", True))

    def scheduler_changes(self, config: Config) -> Mapping[str, Any]:
        """Diffusers' pipeline takes it as it is."""
        return {}

    def checkpoint_scheduler(self, names: Container[str]) -> Mapping[str, Any]:
        """The tensors `v_pred` and `ztsnr` mark v-prediction models, as in ComfyUI."""
        if "v_pred" not in names:
            return {}
        changes: dict[str, Any] = {"prediction_type": "v_prediction"}
        if "ztsnr" in names:
            # Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps Are Flawed": begin at the last step.
            changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return changes

    def encode_prompts(self, model: TextParts, texts: Sequence[Text], device: torch.device) -> list[PromptEmbeds]:
        """The last hidden state but one of both encoders, side by side; the second's projection is the pooled one."""
        import torch

        pairs = zip(clip.encode(model, 0, texts, device), clip.encode(model, 1, texts, device), strict=True)
        return [
            PromptEmbeds(torch.cat([first.penultimate, second.penultimate], dim=-1), second.pooled)
            for first, second in pairs
        ]

    def added_conditions(self, pooled: Tensor | None, width: int, height: int) -> AddedConditions | None:
        """The pooled prompt and `time_ids`: the original size, no crop, the target size, height before width."""
        import torch

        from ipa_cli.unet.inputs import AddedConditions

        assert pooled is not None
        size = torch.tensor([[height, width, 0, 0, height, width]] * len(pooled), dtype=pooled.dtype)
        return AddedConditions(pooled, devices.sent(size, pooled.device))


SDXL: Architecture = StableDiffusionXL()
