"""The architectures that can be drawn with: SDXL and SD 1.5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

ADAPTERS = "h94/IP-Adapter"
PRESETS = Path(__file__).parents[1] / "presets"


@dataclass(frozen=True)
class Family:
    """What models of one architecture have in common; the adapters are files of `ADAPTERS`."""

    name: str
    preset: str
    repo: str
    pipeline: str  # diffusers' class
    text_encoders: tuple[str, ...]
    tokenizers: tuple[str, ...]
    width: int  # of the hidden states that cross attention reads
    guidance_scale: float
    base: str
    plus: str
    plus_face: str
    vae: str  # to be named where a model comes without

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders of a model in diffusers' layout that are read."""
        return (*self.text_encoders, *self.tokenizers, "unet", "vae", "scheduler")


SDXL = Family(
    name="SDXL",
    preset="sdxl",
    repo="stabilityai/stable-diffusion-xl-base-1.0",
    pipeline="StableDiffusionXLPipeline",
    text_encoders=("text_encoder", "text_encoder_2"),
    tokenizers=("tokenizer", "tokenizer_2"),
    width=2048,
    guidance_scale=5.0,
    base="sdxl_models/ip-adapter_sdxl.safetensors",
    plus="sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
    plus_face="sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors",
    vae="madebyollin/sdxl-vae-fp16-fix",
)
SD15 = Family(
    name="SD 1.5",
    preset="sd15",
    repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
    pipeline="StableDiffusionPipeline",
    text_encoders=("text_encoder",),
    tokenizers=("tokenizer",),
    width=768,
    guidance_scale=7.5,
    base="models/ip-adapter_sd15.safetensors",
    plus="models/ip-adapter-plus_sd15.safetensors",
    plus_face="models/ip-adapter-plus-face_sd15.safetensors",
    vae="stabilityai/sd-vae-ft-mse",
)
FAMILIES = (SDXL, SD15)


def of_unet(config: Mapping[str, Any]) -> Family | None:
    """The family of a UNet by its configuration; None for inpainting, SD 2 and whatever else takes other inputs."""
    if config.get("in_channels", 4) != 4 or config.get("class_embed_type") or config.get("encoder_hid_dim_type"):
        return None
    if config.get("addition_embed_type") == "text_time":
        return SDXL
    other = config.get("addition_embed_type") or config.get("upcast_attention")
    # SD 2 has the same parts, and its text encoder a width of 1024.
    return None if other or config.get("cross_attention_dim") == 1024 else SD15


def flags(file: str) -> str:
    """What to type for an adapter of `ADAPTERS`."""
    path = PurePosixPath(file)
    choice = f"--ip-adapter-subfolder {path.parent} --ip-adapter-weight-name {path.name}"
    return f"--ip-adapter {ADAPTERS} {choice}"
