"""A whole SDXL in miniature as a folder of configurations, for `--load-format dummy`: quick to build and to compile."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.unets import IMAGE_DIM, TINY

_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "projection_dim": 32,
}
_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [8, 8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "scaling_factor": 0.13025,
}
_IMAGE_ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
    "projection_dim": IMAGE_DIM,
}
_UNET = {"_class_name": "UNet2DConditionModel", "in_channels": 4}
_FILES: dict[str, dict[str, Any]] = {
    "model_index.json": {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True},
    "scheduler/scheduler_config.json": {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear"},
    "vae/config.json": _VAE,
    "text_encoder/config.json": _TEXT,
    "text_encoder_2/config.json": _TEXT,
    "ip_adapter/image_encoder/config.json": _IMAGE_ENCODER,
}


def write(folder: Path, unet: Mapping[str, Any] = TINY) -> Path:
    """Write the configurations into `folder`, with such a UNet, and return it."""
    for name, content in {**_FILES, "unet/config.json": {**_UNET, **unet}}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder
