"""What is taken of a model's configuration files: fields of the architecture, each of its kind and within bounds.

A model is foreign until checked. What is not in these tables reaches neither diffusers nor transformers: no names of
code to load, of kernels or data types. Bounds keep a file of a few bytes from asking for hours or all memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ipa_cli.models import schedulers
from ipa_cli.models.architectures.base import Architecture, latents_of
from ipa_cli.models.fields import Field, either, number, one_of, several, whole
from ipa_cli.models.kinds import BASE, GUIDANCE_EMBEDDING
from ipa_cli.models.location import ModelError

HINT = "download it again, or use another model"
MOST_LAYERS = 512  # of cross attention; SDXL has 70


_FLAG, _NONE = one_of(True, False), one_of(None)
_SWITCH = either(_FLAG, _NONE)
_CHANNELS, _DEPTH, _HEADS = whole(1, 4096), whole(0, 64), whole(1, 256)
_LAYERS = whole(1, 16)
_OFF = one_of(False, None)
_ACTIVATIONS = one_of("silu", "swish", "mish", "gelu", "relu")
_DEPTHS = either(_DEPTH, several(either(_DEPTH, several(_DEPTH, 16))))

UNET: Mapping[str, Field] = {
    "sample_size": either(whole(8, 256), _NONE),
    "in_channels": whole(1, 64),
    "out_channels": whole(1, 64),
    "center_input_sample": _FLAG,
    "flip_sin_to_cos": _FLAG,
    "freq_shift": number(0, 1),
    "down_block_types": several(one_of("DownBlock2D", "CrossAttnDownBlock2D")),
    "mid_block_type": either(one_of("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"), _NONE),
    "up_block_types": several(one_of("UpBlock2D", "CrossAttnUpBlock2D")),
    "block_out_channels": several(_CHANNELS),
    "layers_per_block": either(_LAYERS, several(_LAYERS)),
    "downsample_padding": whole(0, 1),
    "mid_block_scale_factor": number(1e-3, 1e3),
    "dropout": number(0, 1),
    "act_fn": _ACTIVATIONS,
    "norm_num_groups": whole(1, 1024),
    "norm_eps": number(1e-12, 1),
    "cross_attention_dim": _CHANNELS,
    "transformer_layers_per_block": _DEPTHS,
    "reverse_transformer_layers_per_block": either(several(either(_DEPTH, several(_DEPTH, 16))), _NONE),
    "attention_head_dim": either(_HEADS, several(_HEADS)),
    "use_linear_projection": _FLAG,
    "upcast_attention": _SWITCH,
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "addition_embed_type": one_of("text_time", None),
    "addition_embed_type_num_heads": whole(1, 1024),
    "addition_time_embed_dim": either(whole(2, 8192), _NONE),
    "projection_class_embeddings_input_dim": either(whole(1, 65536), _NONE),
    "conv_in_kernel": one_of(3),
    "conv_out_kernel": one_of(3),
    # What no processor of ours looks at, or no input is there for.
    **dict.fromkeys(("only_cross_attention", "dual_cross_attention", "mid_block_only_cross_attention"), _OFF),
    **dict.fromkeys(("class_embeddings_concat", "resnet_skip_time_act"), _OFF),
    **dict.fromkeys(("encoder_hid_dim", "encoder_hid_dim_type", "class_embed_type", "num_class_embeds"), _NONE),
    **dict.fromkeys(
        ("time_embedding_dim", "time_embedding_act_fn", "timestep_post_act", "cross_attention_norm"), _NONE
    ),
    **dict.fromkeys(("time_cond_proj_dim", "num_attention_heads"), _NONE),
    "time_embedding_type": one_of("positional"),
    "attention_type": one_of("default"),
    "resnet_out_scale_factor": one_of(1.0, 1),
}
_OF_ENCODERS = (
    *("in_channels", "flip_sin_to_cos", "freq_shift", "down_block_types", "mid_block_type", "block_out_channels"),
    *("downsample_padding", "mid_block_scale_factor", "act_fn", "norm_num_groups", "norm_eps", "cross_attention_dim"),
    *("transformer_layers_per_block", "attention_head_dim", "num_attention_heads", "use_linear_projection"),
    *("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim", "layers_per_block"),
    *("resnet_time_scale_shift", "only_cross_attention", "class_embed_type", "num_class_embeds", "upcast_attention"),
    *("encoder_hid_dim", "encoder_hid_dim_type"),
)
CONTROLNET: Mapping[str, Field] = {
    **{name: UNET[name] for name in _OF_ENCODERS},
    "conditioning_channels": one_of(3),
    "controlnet_conditioning_channel_order": one_of("rgb", "bgr"),
    "conditioning_embedding_out_channels": several(_CHANNELS),
    "global_pool_conditions": _FLAG,
}
CONTROLNET_UNION: Mapping[str, Field] = {
    **CONTROLNET,
    "controlnet_conditioning_channel_order": one_of("rgb"),
    "global_pool_conditions": one_of(False),
    "num_control_type": whole(1, 64),
    "num_trans_layer": whole(0, 16),
    **dict.fromkeys(("num_trans_channel", "num_trans_head", "num_proj_channel"), _CHANNELS),
}
VAE: Mapping[str, Field] = {
    "in_channels": one_of(3),
    "out_channels": one_of(3),
    "down_block_types": several(one_of("DownEncoderBlock2D")),
    "up_block_types": several(one_of("UpDecoderBlock2D")),
    "block_out_channels": several(_CHANNELS),
    "layers_per_block": _LAYERS,
    "act_fn": _ACTIVATIONS,
    "latent_channels": whole(1, 64),
    "norm_num_groups": whole(1, 1024),
    "sample_size": whole(8, 8192),
    "scaling_factor": number(1e-6, 1e6),
    "force_upcast": _SWITCH,
    "use_quant_conv": _FLAG,
    "use_post_quant_conv": _FLAG,
    "mid_block_add_attention": _FLAG,
    "shift_factor": _NONE,
    **dict.fromkeys(("latents_mean", "latents_std"), either(several(number(-1e6, 1e6)), _NONE)),
}
_CLIP: Mapping[str, Field] = {
    "hidden_size": _CHANNELS,
    "intermediate_size": whole(1, 16384),
    "projection_dim": _CHANNELS,
    "num_hidden_layers": whole(1, 128),
    "num_attention_heads": _HEADS,
    "hidden_act": one_of("quick_gelu", "gelu", "gelu_new", "relu", "silu"),
    "layer_norm_eps": number(1e-12, 1),
}
_TOKEN = either(whole(0, 1_000_000), _NONE)
TEXT: Mapping[str, Field] = {
    **_CLIP,
    "vocab_size": whole(3, 1_000_000),
    "max_position_embeddings": whole(3, 1024),
    "eos_token_id": whole(0, 1_000_000),
    **dict.fromkeys(("bos_token_id", "pad_token_id"), _TOKEN),
}
VISION: Mapping[str, Field] = {
    **_CLIP,
    "num_channels": one_of(3),
    "image_size": whole(8, 2048),
    "patch_size": whole(1, 256),
}
SCHEDULER: Mapping[str, Field] = {
    "num_train_timesteps": whole(100, 10_000),
    "beta_start": number(0, 1),
    "beta_end": number(0, 1),
    "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": either(several(number(0, 1), 10_000), _NONE),
    "prediction_type": one_of("epsilon", "v_prediction", "sample"),
    "timestep_spacing": one_of("linspace", "leading", "trailing"),
    "timestep_type": one_of("discrete", "continuous"),
    "interpolation_type": one_of("linear", "log_linear"),
    "steps_offset": whole(0, 100),
    "algorithm_type": one_of("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis"),
    "solver_type": one_of("midpoint", "heun", "logrho", "bh1", "bh2"),
    "solver_order": whole(1, 3),
    "final_sigmas_type": one_of("zero", "sigma_min"),
    "variance_type": one_of("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", None),
    "sigma_min": either(number(0, 1e6), _NONE),
    "sigma_max": either(number(0, 1e6), _NONE),
    "original_inference_steps": whole(1, 1000),
    "timestep_scaling": number(0, 1e6),
    "sigma_data": number(1e-6, 1e6),
    "sigma_schedule": one_of("karras", "exponential"),
    "rho": number(1e-3, 1e3),
    "lambda_min_clipped": number(-math.inf, 1e3),
    "disable_corrector": either(several(whole(0, 1000), 1000), one_of([])),
    **dict.fromkeys(("dynamic_thresholding_ratio", "clip_sample_range", "sample_max_value"), number(0, 1e6)),
    **dict.fromkeys(("clip_sample", "set_alpha_to_one", "thresholding", "rescale_betas_zero_snr"), _FLAG),
    **dict.fromkeys(("lower_order_final", "euler_at_final", "skip_prk_steps", "predict_x0"), _FLAG),
    **dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas"), _SWITCH),
    # They need packages or inputs that are not there.
    **dict.fromkeys(("use_beta_sigmas", "use_flow_sigmas", "use_dynamic_shifting"), _OFF),
}

# The schedulers that a model may have: those of diffusers that predict noise, velocity or the picture from latents.
SCHEDULERS = frozenset(schedulers.names("class_name")) - {"SASolverScheduler"} | {
    f"{name}Scheduler"
    for name in ("DDPM", "TCD", "DEISMultistep", "DPMSolverSinglestep", "EDMEuler", "EDMDPMSolverMultistep")
}

# What must be said, and is not guessed from a class's defaults.
_REQUIRED = {
    "UNet2DConditionModel": ("block_out_channels", "down_block_types", "up_block_types", "cross_attention_dim"),
    "AutoencoderKL": ("block_out_channels", "down_block_types", "up_block_types"),
    **dict.fromkeys(
        ("ControlNetModel", "ControlNetUnionModel"), ("block_out_channels", "down_block_types", "cross_attention_dim")
    ),
}
_OF_EACH_BLOCK = (
    *("down_block_types", "up_block_types", "layers_per_block", "attention_head_dim"),
    *("transformer_layers_per_block", "reverse_transformer_layers_per_block"),
)
_QUANTIZED = "quantization_config"


def unet(where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `UNet2DConditionModel`. Raises ModelError naming the first that is wrong."""
    if config.get("time_cond_proj_dim"):
        raise ModelError(f"{where} is of {GUIDANCE_EMBEDDING.words}", BASE)
    found = _taken(where, UNET, _of_class(where, config, "UNet2DConditionModel"))
    _check_blocks(where, found)
    _check_heads(where, found)
    if len(cross_attention_widths(found)) > MOST_LAYERS:
        raise ModelError(f"{where} asks for more than {MOST_LAYERS} cross-attention layers", HINT)
    return found


def controlnet(where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `ControlNetModel`, or of a `ControlNetUnionModel`. Raises ModelError for another."""
    union = "num_control_type" in config or config.get("_class_name") == "ControlNetUnionModel"
    kind, table = ("ControlNetUnionModel", CONTROLNET_UNION) if union else ("ControlNetModel", CONTROLNET)
    # xinsir's union models name the class that they had before diffusers' own.
    config = {**config, "_class_name": kind} if "num_control_type" in config else config
    found = _taken(where, table, _of_class(where, config, kind))
    _check_blocks(where, found)
    _check_heads(where, found)
    return {**found, "num_control_type": found.get("num_control_type", 6)} if union else found


def vae(where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an `AutoencoderKL`. Raises ModelError naming the first that is wrong."""
    found = _taken(where, VAE, _of_class(where, config, "AutoencoderKL"))
    _check_blocks(where, found)
    return found


def latent_factor(vae: Mapping[str, Any]) -> int:
    """Pixels a side for each latent pixel of such a VAE, as diffusers' pipelines count them."""
    return 2 ** (len(vae["block_out_channels"]) - 1)


def text_encoder(where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `CLIPTextConfig`. Raises ModelError."""
    return _clip(where, TEXT, config, "text")


def image_encoder(where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `CLIPVisionConfig`. Raises ModelError."""
    found = _clip(where, VISION, config, "vision")
    side, patch = found.get("image_size", 224), found.get("patch_size", 32)
    if not 1 <= side // patch <= 100:
        raise ModelError(f"{where}: image_size {side} and patch_size {patch} do not fit each other", HINT)
    return found


def scheduler(where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a scheduler, and `_class_name`, the one of `SCHEDULERS` that it is. Raises ModelError."""
    kind = config.get("_class_name", "EulerDiscreteScheduler")
    if not isinstance(kind, str) or kind not in SCHEDULERS:
        raise ModelError(f"{where} is of the class {shown(kind)}, with which ipa does not draw", "use another model")
    found = _taken(where, SCHEDULER, config)
    betas, count = found.get("trained_betas"), found.get("num_train_timesteps", 1000)
    if betas is not None and len(betas) != count:
        raise ModelError(f"{where}: {len(betas)} trained_betas for {count} num_train_timesteps", HINT)
    if found.get("use_karras_sigmas") and found.get("use_exponential_sigmas"):
        raise ModelError(f"{where}: use_karras_sigmas and use_exponential_sigmas exclude each other", HINT)
    return {"_class_name": kind, **found}


def check_together(
    where: str,
    architecture: Architecture,
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    texts: Sequence[Mapping[str, Any]],
) -> None:
    """Raise ModelError unless UNet, VAE and text encoders, taken by the functions above, fit each other.

    And unless the latents are those of the architecture.
    """
    widths, latents = [text.get("hidden_size", 512) for text in texts], latents_of(unet, architecture.latent_channels)
    pairs = {
        "cross_attention_dim of the UNet, hidden_size of its text encoders": (unet["cross_attention_dim"], sum(widths)),
        "in_channels of the UNet, latent_channels of the VAE": (
            latents,
            vae.get("latent_channels", 4),
        ),
        "in_channels, out_channels of the UNet": (latents, unet.get("out_channels", 4)),
        f"in_channels of the UNet, latent channels of {architecture.name}": (
            latents,
            architecture.latent_channels,
        ),
        f"pixels for each latent pixel of the VAE, of {architecture.name}": (
            latent_factor(vae),
            architecture.latent_factor,
        ),
        **architecture.matching_sizes(unet, texts),
    }
    for words, (one, other) in pairs.items():
        if one is None or one != other:
            raise ModelError(f"{where}: {words}: {shown(one)} and {shown(other)} do not fit", HINT)


def cross_attention_layers(unet_config: Mapping[str, Any]) -> int:
    """How many cross-attention layers a UNet of this configuration has."""
    return len(cross_attention_widths(unet_config))


def cross_attention_widths(unet_config: Mapping[str, Any]) -> list[int]:
    """The width of each cross-attention layer, in the order of `attention.layers`: down, up, middle.

    A block has one number of transformers for each of its layers, or one for all, as diffusers reads it.
    """
    channels, down = unet_config["block_out_channels"], unet_config["down_block_types"]
    depths = _each(unet_config.get("transformer_layers_per_block", 1), len(down))
    counts = _each(unet_config.get("layers_per_block", 2), len(down))
    rising = unet_config.get("reverse_transformer_layers_per_block") or depths[::-1]
    found: list[int] = []
    for kind, width, depth, count in zip(down, channels, depths, counts, strict=True):
        found += [width] * sum(_each(depth, count)) * ("CrossAttn" in kind)
    for kind, width, depth, count in zip(
        unet_config["up_block_types"], channels[::-1], rising, counts[::-1], strict=True
    ):
        found += [width] * sum(_each(depth, count + 1)) * ("CrossAttn" in kind)
    if "CrossAttn" in str(unet_config.get("mid_block_type", "UNetMidBlock2DCrossAttn")):
        found += [channels[-1]] * _each(depths[-1], 1)[0]
    return found


def _each(value: Any, count: int) -> list[Any]:
    return [value] * count if isinstance(value, int) else list(value)


def _taken(where: str, fields: Mapping[str, Field], config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get(_QUANTIZED) is not None:
        raise ModelError(f"{where}: its weights are quantized", "use the model in half precision")
    for key, field in fields.items():
        if key in config and not field.fits(config[key]):
            raise ModelError(f"{where}: {key} is {shown(config[key])}, and should be {field.words}", HINT)
    return {key: config[key] for key in fields if key in config}


def shown(value: Any) -> str:
    """A foreign value for a message: short, in one line, any bytes escaped."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return "something deeply nested"
    return text if len(text) <= 60 else text[:60] + "…"


def _of_class(where: str, config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get("_class_name", name)
    if found != name:
        raise ModelError(f"{where} is of the class {shown(found)}, and should be of {name}", "use another model")
    for key in _REQUIRED[name]:
        if key not in config:
            raise ModelError(f"{where} does not say {key}", HINT)
    return config


def _clip(where: str, fields: Mapping[str, Field], config: Mapping[str, Any], half: str) -> dict[str, Any]:
    inner = config.get(f"{half}_config")
    if isinstance(inner, dict):  # a whole CLIP, text and pictures
        config = {**({"projection_dim": config["projection_dim"]} if "projection_dim" in config else {}), **inner}
    kind = config.get("model_type", "clip")
    if kind not in ("clip", f"clip_{half}_model"):
        raise ModelError(
            f"{where} is of the kind {shown(kind)}, and should be a CLIP {half} model", "use another model"
        )
    found = _taken(where, fields, config)
    width, heads = {"text": (512, 8), "vision": (768, 12)}[half]  # transformers' own where nothing is said
    heads = found.get("num_attention_heads", heads)
    _divisible(where, [found.get("hidden_size", width)], heads, "num_attention_heads")
    return found


def _check_blocks(where: str, config: Mapping[str, Any]) -> None:
    """Raise ModelError unless each block has a value of every list, and channels that its group norms can share out."""
    channels = config["block_out_channels"]
    for key in _OF_EACH_BLOCK:
        if isinstance(config.get(key), list) and len(config[key]) != len(channels):
            raise ModelError(f"{where}: {key} has {len(config[key])} entries for {len(channels)} blocks", HINT)
    _divisible(where, channels, config.get("norm_num_groups", 32), "norm_num_groups")


def _check_heads(where: str, config: Mapping[str, Any]) -> None:
    """Raise ModelError unless the heads of each block share out its channels."""
    channels, name = config["block_out_channels"], "attention_head_dim"  # diffusers' name for the number of heads
    for width, heads in zip(channels, _each(config.get(name, 8), len(channels)), strict=True):
        _divisible(where, [width], heads, name)


def _divisible(where: str, widths: Sequence[int], by: int, name: str) -> None:
    for width in widths:
        if math.gcd(width, by) != by:
            raise ModelError(f"{where}: a width of {width} cannot be shared out among {by} ({name})", HINT)
