"""Models of full size with seeded random weights, for measuring a machine: `--load-format dummy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipa_cli.models import schedulers
from ipa_cli.models.plan import DEMO, Plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SEED = 0
TOKENS = 4


def parts(
    plan: Plan, device: torch.device, home: torch.device, dtype: torch.dtype
) -> tuple[dict[str, Any], list[dict[str, dict[str, Tensor]]], list[Any]]:
    """The whole architecture with seeded random weights, built straight on the device in its final dtype."""
    import torch
    import transformers
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

    def build(make: Any, kind: torch.dtype) -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(kind)
        try:
            with torch.device(device):
                made = make()
            return made.to(home) if isinstance(made, torch.nn.Module) else made
        finally:
            torch.set_default_dtype(before)

    def text(part: str) -> Any:
        kind = getattr(transformers, plan.architecture.text_encoders[part])
        return build(lambda: kind(CLIPTextConfig(**plan.configs[part])), dtype)

    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(SEED)
        found = {
            "unet": build(lambda: UNet2DConditionModel.from_config(plan.configs["unet"]), dtype),
            "vae": build(lambda: AutoencoderKL.from_config(plan.configs["vae"]), dtype),
            **{part: text(part) for part in plan.architecture.text_encoders},
            "scheduler": schedulers.of_model(plan.configs["scheduler"], plan.architecture),
        }
        states, encoders = [], []
        if plan.adapter is not None:
            config = CLIPVisionConfig(**plan.adapter.encoder.config)
            encoders = [build(lambda: CLIPVisionModelWithProjection(config), dtype)] * len(plan.adapters)
            states = [build(lambda: _adapter(found["unet"], config.projection_dim), dtype) for _ in plan.adapters]
    for part, encoder_part in zip(plan.architecture.tokenizers, plan.architecture.text_encoders, strict=True):
        # Words mean nothing to random weights; what counts is their number, which sets the graph's shape.
        found[part] = CLIPTokenizer.from_pretrained(DEMO / part)
        found[part].model_max_length = plan.configs[encoder_part].get("max_position_embeddings", 77)
    return found, states, encoders


def _adapter(unet: Any, image_width: int) -> dict[str, dict[str, Tensor]]:
    """Random weights in the layout of h94's `ip-adapter_sdxl`: four tokens, keys and values of every layer."""
    import torch

    from ipa_cli.unet.attention import layers

    cross = unet.config.cross_attention_dim
    state: dict[str, dict[str, Tensor]] = {
        "image_proj": {
            "proj.weight": torch.randn(TOKENS * cross, image_width) * image_width**-0.5,
            "proj.bias": torch.zeros(TOKENS * cross),
            "norm.weight": torch.ones(cross),
            "norm.bias": torch.zeros(cross),
        },
        "ip_adapter": {},
    }
    for number, name in enumerate(layers(unet)):
        inner = unet.get_submodule(name).to_k.out_features
        for kind in "kv":
            weight = torch.randn(inner, cross) * cross**-0.5
            state["ip_adapter"][f"{2 * number + 1}.to_{kind}_ip.weight"] = weight
    return state
