"""CLIP's text and image encoders in plain torch: built in a moment, without the imports of transformers.

Parameters have the names of transformers' `CLIPTextModelWithProjection` and `CLIPVisionModelWithProjection`, and every
operation is in their order: the embeddings are the same to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipa_cli.networks.common import Config

_BOTH = {"num_attention_heads": 8, "num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
# What a configuration means that leaves a field out: transformers' own defaults.
TEXT: Mapping[str, Any] = {
    **_BOTH,
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "projection_dim": 512,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
VISION: Mapping[str, Any] = {
    **_BOTH,
    "num_attention_heads": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 512,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
}


# Embeddings, (hidden,), in place of those of some tokens, by their row and position: textual inversion.
Vectors = Mapping[tuple[int, int], Tensor]
NO_VECTORS: Vectors = MappingProxyType({})


class TextStates(NamedTuple):
    """What a text encoder says of token ids (B, tokens)."""

    penultimate: Tensor  # (B, tokens, hidden), before the last layer
    last: Tensor  # (B, tokens, hidden), after the last norm
    pooled: Tensor  # (B, projection), of the token that ends the text; (B, hidden) without a projection


class ImageStates(NamedTuple):
    """What an image encoder says of pixels (B, 3, side, side)."""

    penultimate: Tensor  # (B, 1 + patches, hidden), before the last layer
    embeds: Tensor  # (B, projection)


def _quick_gelu(states: Tensor) -> Tensor:
    return states * torch.sigmoid(1.702 * states)


def _gelu_new(states: Tensor) -> Tensor:
    return 0.5 * states * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (states + 0.044715 * torch.pow(states, 3.0))))


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": _quick_gelu,
    "gelu": F.gelu,
    "gelu_new": _gelu_new,
    "relu": F.relu,
    "silu": F.silu,
}


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, states: Tensor, causal: bool) -> Tensor:
        query, key, value = (
            to(states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for to in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(states)))


class Layer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.self_attn, self.mlp = Attention(config), MLP(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, states: Tensor, causal: bool) -> Tensor:
        states = states + self.self_attn(self.layer_norm1(states), causal)
        return states + self.mlp(self.layer_norm2(states))


class Encoder(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, states: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
        """States before and after the last layer."""
        before = states
        for layer in self.layers:
            before, states = states, layer(states, causal)
        return before, states


def _row_by_row(product: nn.Linear, states: Tensor) -> Tensor:
    """A product of states (B, width): what a row gives does not depend on the others, as it would by one for all."""
    return torch.cat([product(row) for row in states.split(1)])


def _positions(embedding: nn.Embedding, states: Tensor) -> Tensor:
    """The embeddings of the positions of states (B, tokens, width), by a call: it brings weights that are offloaded."""
    return embedding(torch.arange(states.shape[1], device=states.device))


class TextEmbeddings(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor, vectors: Vectors = NO_VECTORS) -> Tensor:
        tokens = self.token_embedding(ids)
        for at, vector in vectors.items():
            tokens[at] = vector.to(tokens.device, tokens.dtype)
        return tokens + _positions(self.position_embedding, tokens)


class TextTransformer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.embeddings, self.encoder = TextEmbeddings(config), Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)


class TextEncoder(nn.Module):
    """From token ids to states; `projected` where the pooled state goes through a product, as OpenCLIP's does."""

    def __init__(self, config: Mapping[str, Any], projected: bool):
        super().__init__()
        self.config = config = Config({**TEXT, **config})
        self.text_model = TextTransformer(config)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False) if projected else None

    def forward(self, ids: Tensor, vectors: Vectors = NO_VECTORS) -> TextStates:
        """The states of ids (B, tokens); `vectors` replace the embeddings of tokens, see `Vectors`."""
        penultimate, states = self.text_model.encoder(self.text_model.embeddings(ids, vectors), causal=True)
        last = self.text_model.final_layer_norm(states)
        # Configurations from before the end had a number of its own say 2: the end is then the highest number.
        ends = ids.int() if self.config.eos_token_id == 2 else (ids == self.config.eos_token_id).int()
        pooled = last[torch.arange(len(ids), device=ids.device), ends.argmax(-1)]
        if self.text_projection is not None:
            pooled = _row_by_row(self.text_projection, pooled)
        return TextStates(penultimate, last, pooled)


class ImageEmbeddings(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding((config.image_size // patch) ** 2 + 1, width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        states = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], 1)
        return states + _positions(self.position_embedding, states)


class ImageTransformer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.embeddings, self.encoder = ImageEmbeddings(config), Encoder(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)  # spelt so in every file
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)


class ImageEncoder(nn.Module):
    """From pixels as CLIP normalises them to states."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.config = config = Config({**VISION, **config})
        self.vision_model = ImageTransformer(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    @property
    def dtype(self) -> torch.dtype:
        """That of its weights."""
        return self.visual_projection.weight.dtype

    def forward(self, pixels: Tensor) -> ImageStates:
        model = self.vision_model
        penultimate, states = model.encoder(model.pre_layrnorm(model.embeddings(pixels)), causal=False)
        return ImageStates(penultimate, _row_by_row(self.visual_projection, model.post_layernorm(states[:, 0])))
