"""IP-Adapter cross attention: the image scale is a tensor, keys and values are made once per prompt.

The UNet hands a `Context` down to every cross-attention processor: nothing that depends on the prompt alone is computed
in a step, and the scale is an input that a compiler can neither freeze nor branch on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipa_cli.errors import IpaError
from ipa_cli.networks import image_projection
from ipa_cli.networks.image_projection import FacePictures
from ipa_cli.unet.inputs import Context


class Adapters(nn.Module):
    """The weights of the loaded IP-Adapters: image projections, and the products for keys and values.

    `projections[a]` is a module of `networks.image_projection`;
    `to_kv[a][i]` is (2 * inner, cross), keys above values.
    """

    def __init__(self, projections: Sequence[nn.Module], to_kv: Sequence[Sequence[Tensor]]):
        super().__init__()
        self.projections = nn.ModuleList(projections)
        frozen = [[nn.Parameter(weight, requires_grad=False) for weight in adapter] for adapter in to_kv]
        self.to_kv = nn.ModuleList(nn.ParameterList(adapter) for adapter in frozen)

    def weights(self, adapter: int) -> list[Tensor]:
        """The products for keys and values of one adapter, layer by layer."""
        return list(cast(nn.ParameterList, self.to_kv[adapter]))


class SelfAttention:
    """Processor of the layers that attend to the picture itself."""

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        query, key, value = (_split(to(hidden_states), attn.heads) for to in (attn.to_q, attn.to_k, attn.to_v))
        return attn.to_out[0](_join(F.scaled_dot_product_attention(query, key, value)))


class CrossAttention:
    """Processor of cross-attention layer number `layer`: the text, or shares of texts, plus each image times its scale.

    The same sum in the same order as diffusers' `IPAdapterAttnProcessor2_0`.
    """

    def __init__(self, layer: int):
        self.layer = layer

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Context, *_: Any, **__: Any) -> Tensor:
        context, layer = encoder_hidden_states, self.layer
        query = _split(attn.to_q(hidden_states), attn.heads)
        out = _seen(query, context.text[layer], context.share[0][layer] if context.share else None)
        for region, share in zip(context.regions, context.share[1:], strict=True):
            out = out + _seen(query, region[layer], share[layer])
        for adapter, image in enumerate(context.image):
            weight = context.scale[adapter, layer].to(out.dtype)
            seen = F.scaled_dot_product_attention(query, image[layer][0], image[layer][1])
            out = out + weight * (seen * context.mask[adapter][layer] if context.mask else seen)
        return attn.to_out[0](_join(out))


def layers(unet: Any) -> list[str]:
    """Names of the cross-attention layers in the order of `Context`, which is that of IP-Adapter files.

    For example "down_blocks.1.attentions.0.transformer_blocks.0.attn2"; the middle block comes last.
    """
    return [name for name, _ in unet.named_modules() if name.endswith(".attn2")]


def set_processors(unet: Any) -> None:
    """Give every attention layer of `unet` the processor that it needs."""
    order = {name: layer for layer, name in enumerate(layers(unet))}
    for name, module in unet.named_modules():
        if name.endswith((".attn1", ".attn2")):
            module.processor = CrossAttention(order[name]) if name in order else SelfAttention()


def install(unet: Any, adapters: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> Adapters:
    """Set the processors of `unet` and return the adapters' weights, on its device and in its dtype.

    `adapters` are state dicts as diffusers' `_load_ip_adapter_weights` takes them: {"image_proj": ...,
    "ip_adapter": ...}; none at all is plain text to image. Raises IpaError when one was made for another model.
    The LoRA of FaceID adapters is not looked at: `models.lora.of_adapter` is for it.
    """
    names = layers(unet)
    to_kv = [
        [_key_value_weight(unet, state["ip_adapter"], name, layer) for layer, name in enumerate(names)]
        for state in adapters
    ]
    projections = [image_projection.of_file(state["image_proj"]) for state in adapters]
    set_processors(unet)
    return Adapters(projections, to_kv).to(device=unet.device, dtype=unet.dtype).eval().requires_grad_(False)


@torch.no_grad()
def project_text(unet: Any, text: Tensor) -> list[Tensor]:
    """Every layer's keys and values of a text's hidden states (B, tokens, cross), as `Context.text` has them."""
    attns = [unet.get_submodule(name) for name in layers(unet)]
    return [torch.stack([_split(attn.to_k(text), attn.heads), _split(attn.to_v(text), attn.heads)]) for attn in attns]


@torch.no_grad()
def project(
    unet: Any,
    adapters: Adapters,
    text: Tensor,
    images: Sequence[Tensor | FacePictures] = (),
    scale: Tensor | None = None,
    weights: Sequence[Sequence[float]] | None = None,
    parts: Sequence[int] | None = None,
) -> Context:
    """Make every layer's keys and values once, from the text's hidden states and each adapter's images.

    text: (B, tokens, cross). images: per adapter (B, images, dim) or (B, images, sequence, dim), as
    diffusers' `prepare_ip_adapter_image_embeds` gives them (with guidance the negative half first), or
    `FacePictures`; the tokens of several images are joined. scale: (rows, layers), 1 everywhere unless given. weights:
    per adapter a weight for each image's values, 1 as in diffusers unless given. parts: per adapter its number of rows
    in the context, 1 unless given; its images are divided among them.
    """
    if len(images) != len(adapters.to_kv):
        raise ValueError(f"{len(adapters.to_kv)} adapters are loaded and images are given for {len(images)}")
    attns, keys_values = [unet.get_submodule(name) for name in layers(unet)], project_text(unet, text)
    image: list[list[Tensor]] = []
    for adapter, embeds in enumerate(images):
        tokens = image_projection.tokens(adapters.projections[adapter], embeds)
        count = (embeds.faces if isinstance(embeds, FacePictures) else embeds).shape[1]
        taken: list[list[Tensor]] = [[] for _ in range(parts[adapter] if parts else 1)]
        own_weights = weights[adapter] if weights else ()
        each = None
        if not set(own_weights) <= {1}:  # filled where they are used: a copy would wait for the device
            each = torch.stack([tokens.new_full((), one) for one in own_weights])
        for attn, weight in zip(attns, adapters.weights(adapter), strict=True):
            key, value = F.linear(tokens, weight).chunk(2, dim=-1)
            if each is not None:
                value = value * each.repeat_interleave(value.shape[1] // count)[:, None]
            pair = torch.stack([_split(key, attn.heads), _split(value, attn.heads)])
            for part, own in zip(taken, pair.chunk(len(taken), dim=3), strict=True):
                part.append(own)
        image += taken
    if scale is None:
        scale = torch.ones(len(image), len(attns), device=text.device)
    return Context(keys_values, image, scale.to(text.device, torch.float32))


def _seen(query: Tensor, pair: Tensor, share: Tensor | None) -> Tensor:
    """Attention to keys and values, times a share."""
    seen = F.scaled_dot_product_attention(query, pair[0], pair[1])
    return seen if share is None else seen * share


def _split(states: Tensor, heads: int) -> Tensor:
    """(B, tokens, heads * d) to (B, heads, tokens, d)."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join(states: Tensor) -> Tensor:
    """(B, heads, tokens, d) to (B, tokens, heads * d)."""
    return states.transpose(1, 2).flatten(2)


def _key_value_weight(unet: Any, weights: Mapping[str, Tensor], name: str, layer: int) -> Tensor:
    """Keys above values of one layer, (2 * inner, cross); layer i has the number 2 i + 1 in the file."""
    expected = tuple(unet.get_submodule(name).to_k.weight.shape)
    pair = [weights.get(f"{2 * layer + 1}.to_{kind}_ip.weight") for kind in "kv"]
    found = [None if weight is None else tuple(weight.shape) for weight in pair]
    if found != [expected, expected]:
        raise IpaError(
            f"the IP-Adapter does not fit this UNet: {name} needs keys and values of {expected}, not {found}",
            "choose an IP-Adapter made for this model",
        )
    return torch.cat([weight.to(unet.device, unet.dtype) for weight in pair if weight is not None])
