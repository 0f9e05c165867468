"""How IP-Adapters make tokens of image embeds: modules whose parameters have the names of the adapters' own files.

Every operation is in the order of diffusers' `ImageProjection`, `IPAdapterPlusImageProjection`,
`IPAdapterFullImageProjection`, `IPAdapterFaceIDImageProjection` and `IPAdapterFaceIDPlusImageProjection`: the tokens
are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipa_cli.networks.common import without_weights

TOKENS = 4  # of the base adapters
PERCEIVER = "perceiver_resampler."  # before the names of a FaceID-Plus adapter's second half
DEPTH_OF_A_HEAD = 64


class ImageProjection(nn.Module):
    """Base adapters: an embedding (B, dim) to (B, 4, cross)."""

    def __init__(self, dim: int, cross: int):
        super().__init__()
        self.proj, self.norm = nn.Linear(dim, TOKENS * cross), nn.LayerNorm(cross)

    def forward(self, embeds: Tensor) -> Tensor:
        return self.norm(self.proj(embeds.to(self.proj.weight.dtype)).unflatten(-1, (TOKENS, -1)))


class FullImageProjection(nn.Module):
    """Full-face adapters: hidden states (B, sequence, dim) to as many tokens (B, sequence, cross)."""

    def __init__(self, dim: int, cross: int):
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, cross), nn.LayerNorm(cross))

    def forward(self, states: Tensor) -> Tensor:
        return self.proj(states)


class ResamplerAttention(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, states: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm2(latents)
        both = torch.cat([self.norm1(states), latents], dim=-2)
        # Two products, as diffusers has them: one of both rounds otherwise.
        query, key, value = (
            F.linear(given, weight).unflatten(-1, (-1, DEPTH_OF_A_HEAD)).transpose(1, 2)
            for given, weight in ((latents, self.to_q.weight), *((both, half) for half in self.to_kv.weight.chunk(2)))
        )
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Perceiver(nn.Module):
    """Latents (B, tokens, width) that look at hidden states (B, sequence, dim), to tokens (B, tokens, cross)."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        super().__init__()
        width, dim = shapes["proj_in.weight"]
        layers = {name.split(".")[1] for name in shapes if name.startswith("layers.")}
        inner = shapes["layers.0.0.to_q.weight"][0]
        self.proj_in = nn.Linear(dim, width)
        self.proj_out = nn.Linear(width, shapes["proj_out.weight"][0])
        self.norm_out = nn.LayerNorm(shapes["proj_out.weight"][0])
        self.layers: Any = nn.ModuleList(
            nn.ModuleList(
                [
                    ResamplerAttention(width, inner),
                    nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, 4 * width, bias=False),
                        nn.GELU(),
                        nn.Linear(4 * width, width, bias=False),
                    ),
                ]
            )
            for _ in layers
        )

    def forward(self, latents: Tensor, states: Tensor) -> Tensor:
        states = self.proj_in(states)
        for layer in self.layers:
            latents = layer[0](states, latents) + latents
            latents = layer[1](latents) + latents
        return self.norm_out(self.proj_out(latents))


class Resampler(Perceiver):
    """Plus adapters: hidden states (B, sequence, dim) to a few tokens (B, tokens, cross), by learned latents."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        super().__init__(shapes)
        self.latents = nn.Parameter(torch.empty(shapes["latents"]))

    def forward(self, states: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(self.latents.repeat(len(states), 1, 1), states)


class FaceProjection(nn.Module):
    """FaceID adapters: the embedding of a face (B, dim) to a few tokens (B, tokens, cross)."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        super().__init__()
        hidden, dim = shapes["proj.0.weight"]
        (width,), out = shapes["norm.weight"], shapes["proj.2.weight"][0]
        self.tokens = out // width
        self.proj = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, out))
        self.norm = nn.LayerNorm(width)

    def forward(self, faces: Tensor) -> Tensor:
        return self.norm(self.proj(faces).unflatten(-1, (self.tokens, -1)))


class FacePictures(NamedTuple):
    """What FaceID-Plus adapters take: the embeddings of faces (B, images, dim), and an image encoder's hidden states.

    states: (B, images, sequence, dim), of pictures of the same faces. shortcut: what the tokens of the states are
    multiplied by and added to those of the faces, as in v2; None for v1, which has the tokens of the states alone.
    """

    faces: Tensor
    states: Tensor
    shortcut: float | None = None


class FacePlusProjection(nn.Module):
    """FaceID-Plus adapters: the tokens of a face's embedding look at hidden states of its picture."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        super().__init__()
        face = FaceProjection(shapes)
        self.tokens, self.proj, self.norm = face.tokens, face.proj, face.norm
        inner = {name.removeprefix(PERCEIVER): shape for name, shape in shapes.items() if name.startswith(PERCEIVER)}
        self.perceiver_resampler = Perceiver(inner)

    def forward(self, faces: Tensor, states: Tensor, shortcut: float | None) -> Tensor:
        tokens = self.norm(self.proj(faces.to(states.dtype)).unflatten(-1, (self.tokens, -1)))
        seen = self.perceiver_resampler(tokens, states)
        return seen if shortcut is None else tokens + shortcut * seen


def stack(halves: Sequence[Tensor | FacePictures]) -> Tensor | FacePictures:
    """One batch of the embeds of several, (B, images, …)."""
    faces = [half for half in halves if isinstance(half, FacePictures)]
    if not faces:
        return torch.stack([half for half in halves if isinstance(half, Tensor)])
    states = torch.stack([half.states for half in faces])
    return FacePictures(torch.stack([half.faces for half in faces]), states, faces[0].shortcut)


def tokens(projection: nn.Module, embeds: Tensor | FacePictures) -> Tensor:
    """The tokens of all pictures of an adapter, joined: (B, images * tokens, cross).

    embeds: (B, images, dim), (B, images, sequence, dim), or both as `FacePictures`.
    """
    if isinstance(embeds, FacePictures):
        shape = embeds.faces.shape[:2]
        found = projection(embeds.faces.flatten(0, 1), embeds.states.flatten(0, 1), embeds.shortcut)
    else:
        shape = embeds.shape[:2]
        found = projection(embeds.flatten(0, 1))
    return found.unflatten(0, shape).flatten(1, 2)


def of_file(tensors: Mapping[str, Tensor]) -> nn.Module:
    """The projection of an adapter's file, its `image_proj` tensors assigned."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    with without_weights():
        if "proj.weight" in shapes:
            module: nn.Module = ImageProjection(shapes["proj.weight"][1], shapes["norm.weight"][0])
        elif "proj.3.weight" in shapes:
            module = FullImageProjection(shapes["proj.0.weight"][1], shapes["proj.3.weight"][0])
        elif f"{PERCEIVER}proj_in.weight" in shapes:
            module = FacePlusProjection(shapes)
        elif "norm.weight" in shapes:
            module = FaceProjection(shapes)
        else:
            module = Resampler(shapes)
    module.load_state_dict(dict(tensors), assign=True)
    return module
