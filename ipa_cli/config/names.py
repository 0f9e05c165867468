"""What settings are called: by hyphens or underscores, by a second name, and in other programs.

Names of other programs serve to suggest ours: what is most like `cfg_scale` is `scale`, another setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipa_cli.config.settings import FIELDS
from ipa_cli.errors import IpaError, UsageError

# Second names, those of flags: "sampler" is the scheduler.
ALSO = {
    one.metadata["also"].removeprefix("--").replace("-", "_"): name
    for name, one in FIELDS.items()
    if one.metadata["also"]
}

# By what a word is in A1111's API and page, ComfyUI's nodes, IPAdapter_plus, diffusers, or scripts around them.
OTHERS = {
    **dict.fromkeys(("cfg_scale", "cfg", "guidance"), "guidance_scale"),
    **dict.fromkeys(("denoising_strength", "denoise", "denoising"), "strength"),
    **dict.fromkeys(("sampler_name", "sampler_index", "sampling_method"), "scheduler"),
    "schedule_type": "schedule",
    **dict.fromkeys(("negative", "neg_prompt", "neg"), "negative_prompt"),
    **dict.fromkeys(("text", "positive", "positive_prompt"), "prompt"),
    **dict.fromkeys(("checkpoint", "ckpt", "ckpt_name", "sd_model_checkpoint"), "model"),
    **dict.fromkeys(("n_iter", "batch_count", "num", "count", "num_images_per_prompt"), "num_images"),
    **dict.fromkeys(("num_inference_steps", "sampling_steps"), "steps"),
    "noise_seed": "seed",
    **dict.fromkeys(("size", "resolution"), "width"),
    **dict.fromkeys(("reference", "ref", "ref_image", "reference_image", "ip_adapter_image", "input_image"), "image"),
    **dict.fromkeys(("file", "filename", "picture", "path"), "image"),
    **dict.fromkeys(("weight", "ip_adapter_scale", "ip_scale", "ip_weight"), "scale"),
    "weight_type": "ip_mode",
    "start_at": "ip_start",
    "end_at": "ip_end",
    **dict.fromkeys(("init_images", "img2img"), "init_image"),
    **dict.fromkeys(("mask_image", "inpainting_mask"), "inpaint_mask"),
    **dict.fromkeys(("hr_scale", "hires_fix", "enable_hr"), "hires"),
    "hr_upscaler": "hires_upscaler",
    "hr_second_pass_steps": "hires_steps",
    **dict.fromkeys(("lora_name", "loras"), "lora"),
    **dict.fromkeys(("vae_name", "sd_vae"), "vae"),
    **dict.fromkeys(("out", "outdir", "output_dir", "output_path"), "output"),
}


def setting_of(name: str) -> str:
    """The setting of a name as flags have it, with hyphens or underscores; other names come back with underscores."""
    plain = name.replace("-", "_")
    return ALSO.get(plain, plain)


def by_setting(given: Mapping[str, Any], where: str = "", error: type[IpaError] = UsageError) -> dict[str, Any]:
    """What is given, by the names of settings. Raises `error`, which names `where`, for a setting given twice."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        setting = setting_of(name)
        if value is not None and found.get(setting) is not None:
            twice = f"{setting} is given twice, by two spellings of its name"
            raise error(f"{where}: {twice}" if where else twice, "leave one of them out")
        if value is not None or setting not in found:
            found[setting] = value
    return found


def meant(name: str) -> str:
    """The setting that another program or another flag ("sampler") calls so, else the name itself, for `suggest`."""
    plain = "_".join(name.lower().replace("-", " ").split())
    return ALSO.get(plain) or OTHERS.get(plain, plain if plain in FIELDS else name)
