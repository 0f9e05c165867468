"""Which weights of a model a LoRA can change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ipa_cli.models import architectures
from ipa_cli.models.lora import names

if TYPE_CHECKING:
    from torch import nn

    from ipa_cli.models.plan import Plan

UNET = "unet"


@dataclass(frozen=True, eq=False)
class Targets:
    """The products and convolutions of a model's UNet and text encoders.

    `shapes` are those of their weights by part and module; `named` finds both by every name that files use.
    """

    shapes: Mapping[tuple[str, str], tuple[int, ...]]
    named: Mapping[str, tuple[str, str]]


def of_plan(plan: Plan) -> Targets:
    """Those of a planned model, told by its configurations."""
    configs = {part: plan.configs[part] for part in (UNET, *plan.architecture.text_encoders)}
    return _of(plan.architecture.name, json.dumps(configs))


@lru_cache(maxsize=4)
def _of(architecture: str, configs: str) -> Targets:
    from ipa_cli.networks.clip import TextEncoder
    from ipa_cli.networks.common import without_weights
    from ipa_cli.unet.model import UNet

    encoders = next(one for one in architectures.TABLE if one.name == architecture).text_encoders
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    named: dict[str, tuple[str, str]] = {}
    for part, config in json.loads(configs).items():
        with without_weights():
            module = UNet(config) if part == UNET else TextEncoder(config, encoders[part])
        for name, shape in _weights(module).items():
            shapes[part, name] = shape
            all_names = _of_unet(module, name) if part == UNET else names.of_text_encoder(part, name)
            named |= dict.fromkeys(all_names, (part, name))
    return Targets(shapes, named)


def _of_unet(unet: Any, module: str) -> list[str]:
    resnets = unet.config.layers_per_block
    transformers = [hasattr(block, "attentions") for block in unet.up_blocks]
    return names.of_unet(module, resnets if isinstance(resnets, int) else max(resnets), transformers)


def _weights(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the products and convolutions of a module, by name."""
    parts = {name: getattr(part, "weight", None) for name, part in module.named_modules()}
    found = {name: tuple(weight.shape) for name, weight in parts.items() if weight is not None}
    return {name: shape for name, shape in found.items() if len(shape) > 1 and "embedding" not in name.split(".")[-1]}
