"""Models of full size with seeded random weights, for measuring a machine: `--load-format dummy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipa_cli.models import vocabulary
from ipa_cli.models.location import Location
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

    from ipa_cli.networks.autoencoder import AutoencoderKL
    from ipa_cli.networks.clip import ImageEncoder, TextEncoder
    from ipa_cli.unet.control import ControlNet
    from ipa_cli.unet.model import UNet

    def build(make: Any) -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                made = make()
            return made.to(home) if isinstance(made, torch.nn.Module) else made
        finally:
            torch.set_default_dtype(before)

    projects = plan.architecture.text_encoders
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(SEED)
        found = {
            "unet": build(lambda: UNet(plan.configs["unet"])),
            "vae": build(lambda: AutoencoderKL(plan.configs["vae"])),
            "controls": [build(lambda one=one: ControlNet(one.config)) for one in plan.controls],
            **{part: build(lambda part=part: TextEncoder(plan.configs[part], projects[part])) for part in projects},
        }
        states, encoders = [], []
        if plan.adapter is not None and plan.adapter.encoder is not None:
            config = plan.adapter.encoder.config
            encoder = build(lambda: ImageEncoder(config))
            torch.nn.init.normal_(encoder.vision_model.embeddings.class_embedding)
            encoders = [encoder] * len(plan.adapters)
            width = encoder.config.projection_dim
            states = [build(lambda: _adapter(found["unet"], width)) for _ in plan.adapters]
    for part, encoder_part in zip(plan.architecture.tokenizers, projects, strict=True):
        # Words mean nothing to random weights; what counts is their number, which sets the graph's shape.
        words = vocabulary.read(Location(DEMO), part, found[encoder_part].config)
        found[part] = vocabulary.tokenizer(words)
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
