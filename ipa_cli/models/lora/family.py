"""Which models a LoRA was made for, as its names, shapes and metadata tell."""

from __future__ import annotations

import re
from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]

# Names that only the LoRAs of other models have; the first match counts.
_OTHER = (
    (r"double_blocks|single_blocks|single_transformer_blocks", "FLUX"),
    (r"joint_blocks|attn\.add_q_proj", "SD 3"),
    (r"motion_modules?\.", "AnimateDiff"),
    (r"(^|_)prior_unet_", "Stable Cascade"),
    (r"lora_te3_|text_encoder_3\.", "SD 3"),
    (r"^transformer\.|^lora_transformer_", "a transformer"),
    (
        r"^(diffusion_model\.|base_model\.model\.|(lora_unet|lycoris)_)?(transformer_blocks|blocks|layers)[._]\d",
        "a transformer",
    ),
)
_WIDTHS = {768: "SD 1.5", 1024: "SD 2", 2048: "SDXL"}  # of the states that cross attention reads
_METADATA = (
    (r"sdxl|stable-diffusion-xl", "SDXL"),
    (r"^sd_?v?1|stable-diffusion-v1", "SD 1.5"),
    (r"^sd_?v?2|stable-diffusion-v2", "SD 2"),
    (r"^sd3|stable-diffusion-3", "SD 3"),
    (r"flux", "FLUX"),
)
_CROSS = re.compile(r"attn2[._](processor\.)?to_[kv]\b.*(lora_A|down|hada_w1_b)")


def of(shapes: Shapes, metadata: Mapping[str, str]) -> str | None:
    """The name of the models that a file was made for, None where nothing tells it."""
    lines = "\n".join(shapes)
    for pattern, name in _OTHER:
        if re.search(pattern, lines, re.MULTILINE):
            return name
    for key, shape in shapes.items():
        if _CROSS.search(key) and len(shape) > 1 and shape[1] in _WIDTHS:
            return _WIDTHS[shape[1]]
    said = metadata.get("ss_base_model_version") or metadata.get("modelspec.architecture") or ""
    told = next((name for pattern, name in _METADATA if re.search(pattern, said.lower())), None)
    if told is None and re.search(r"^(lora_te2_|text_encoder_2\.)", lines, re.MULTILINE):
        return "SDXL"
    return told
