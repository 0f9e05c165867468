"""What a weight file holds, told by names of tensors that only files of its kind have, and which flag takes it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ipa_cli.models import architectures

WHOLE = f"name a whole model of {architectures.names()} with --model"
HALF = "use the model in fp16 or bf16"
BASE = "use the base model"


class Kind(NamedTuple):
    """A kind of file, by what its names match: in words, the flag that takes such files, or else what to do."""

    pattern: str
    words: str
    flag: str = ""
    hint: str = ""

    def advice(self, wanted: str) -> str:
        """What to type in the place of such a file; `wanted` is how to name one of the kind that is asked for."""
        return f"give it with {self.flag}; {wanted}" if self.flag else self.hint or wanted


_DEPTHS = r"(transformer_blocks|blocks|layers)\.\d"
LORA = Kind(
    r"lora_(up|down|A|B)\b|lora_linear_layer\.|[._]lora\.(up|down)\.|^(lora_(unet|te)|lycoris)|\.(lokr|hada)_w\d",
    "a LoRA",
    "--lora",
)
ADAPTER = Kind(
    r"^(module\.)?(image_proj|ip_adapter|image_proj_model|adapter_modules)\.", "an IP-Adapter", "--ip-adapter"
)
CONTROLNET = Kind(
    r"^control_model\.|input_hint_block|controlnet_cond_embedding|^controlnet_(down|mid)_block",
    "a ControlNet",
    "--control",
)
GUIDANCE_EMBEDDING = Kind(r"time_embed\.cond_proj\.", "a model with a guidance scale embedding (LCM)", hint=BASE)
REFINER = Kind(r"^conditioner\.embedders\.0\.model\.", "the SDXL refiner", hint=BASE)
# Those that no whole model of ours has anything of; the first match counts.
FOREIGN = (
    Kind(r"^lllite_unet_", "a ControlNet-LLLite, which changes the UNet's attention"),
    Kind(r"^lora_controlnet$", "a ControlLoRA, which changes a copy of the UNet"),
    Kind(r"double_blocks\.\d+\.(processor\.)?ip_adapter", "an adapter for FLUX"),
    ADAPTER,  # FaceID adapters hold a LoRA
    LORA,
    CONTROLNET,
    Kind(r"^(adapter\.)?body\.\d+\.(block|resnets|down_opt|in_conv)", "a T2I-Adapter"),
    Kind(r"motion_modules\.", "a motion module of AnimateDiff"),
    Kind(r"^id_adapter", "a PuLID model"),
    Kind(r"^id_encoder\.", "a PhotoMaker model"),
    Kind(r"\.(absmax|quant_map|quant_state\.)", "quantised by bitsandbytes", hint=HALF),
    Kind(r"(^|\.)scaled_fp8$|\.(scale_weight|weight_scale)$", "in fp8 with scales", hint=HALF),
    Kind(r"^edm_mean$", "Playground 2.5", hint="use --model playgroundai/playground-v2.5-1024px-aesthetic"),
    Kind(r"^edm_vpred\.", "a CosXL model, which is trained by another rule than SDXL"),
    GUIDANCE_EMBEDDING,
    Kind(r"^(taesd_)?(encoder|decoder)\.(layers\.)?\d+\.", "a small VAE for previews (TAESD)"),
    Kind(r"joint_blocks\.", "an SD 3 model"),
    Kind(r"double_(stream_)?blocks\.", "a model of FLUX's kind"),
    Kind(r"^cond_stage_model\.model\.", "an SD 2 model"),
    REFINER,
    Kind(r"^conditioner\.embedders\.0\.open_clip\.", "a model of videos (SVD)"),
    Kind(rf"^(model\.|diffusion_model\.)*{_DEPTHS}", "a transformer, as newer models are"),
    Kind(r"(^|\.)rdb\d\.|\.RDB\d\.", "an upscaler (ESRGAN)"),
)
MODEL = Kind(r"^(conditioner\.embedders|cond_stage_model)\.", "a whole model", "--model")
# What remains of a file that is no whole model.
PARTS = (
    Kind(r"^model_ema\.", "the EMA weights of a training alone", hint="use the model that was made of them"),
    Kind(r"^(model\.diffusion_model\.)?(in|out)put_blocks\.", "a UNet alone, without text encoders"),
    Kind(r"^model\.diffusion_model\.", "a model of another architecture"),
    Kind(
        r"^(down_blocks|up_blocks)\.",
        "the UNet of a diffusers folder",
        hint=f"name the folder above unet/, or {WHOLE.removeprefix('name ')}",
    ),
    Kind(r"^(first_stage_model\.|vae\.)?decoder\.", "a VAE alone", "--vae"),
    Kind(r"^(vision_model|visual)\.", "an image encoder", "--image-encoder"),
    Kind(r"text_model\.|^transformer\.resblocks\.|^encoder\.block\.", "a text encoder"),
    Kind(
        r"^(emb_params|clip_[gl]|text_encoders_[01])$|^string_to_param",
        "an embedding (textual inversion)",
        "--embedding",
    ),
)


def kind_of(names: Iterable[str], *without: Kind) -> Kind | None:
    """The kind of a file that is of none of those `without`; None where nothing tells it."""
    return first((kind for kind in (*FOREIGN, MODEL, *PARTS) if kind not in without), names)


def first(kinds: Iterable[Kind], names: Iterable[str]) -> Kind | None:
    """The first of these kinds that one of the names matches."""
    lines = "\n".join(names)  # one search for each kind, not for each name
    return next((kind for kind in kinds if re.search(kind.pattern, lines, re.MULTILINE)), None)
