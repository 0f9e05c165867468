"""Reference pictures as tensors; with guidance the negative half comes first, as in diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ipa_cli.config.modes import TILES
from ipa_cli.errors import IpaError
from ipa_cli.hardware import devices
from ipa_cli.images import fitting
from ipa_cli.pipeline import face_embeds
from ipa_cli.pipeline.combination import combined

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from ipa_cli.models.loader import Model
    from ipa_cli.networks.image_projection import FacePictures
    from ipa_cli.pipeline.image_prompt import ImagePrompt

    Embeds = Tensor | FacePictures


def encode_images(
    model: Model, each: Sequence[Sequence[ImagePrompt]], guided: bool, device: torch.device
) -> list[list[Embeds]]:
    """For each request, per adapter the embeddings of its reference pictures: (B, images, dim), or hidden states.

    As diffusers' `prepare_ip_adapter_image_embeds`: without a picture the embedding is zero, and Plus adapters see
    the encoding of an empty picture.
    """
    from ipa_cli.networks.image_projection import stack

    return [[stack(halves if guided else halves[1:]) for halves in found] for found in embed_each(model, each, device)]


def embed_each(
    model: Model, each: Sequence[Sequence[ImagePrompt]], device: torch.device
) -> list[list[tuple[Embeds, Embeds]]]:
    """For each request the negative and the positive embeddings of each adapter's pictures, (images, …).

    All have as many adapters, or none.
    """
    by_adapter = [
        _embed_adapter(model, encoder, hidden, image_prompts, device)
        for image_prompts, hidden, encoder in zip(
            zip(*each, strict=True), model.hidden_states, model.image_encoders, strict=False
        )
    ]
    return [[found[number] for found in by_adapter] for number in range(len(each))]


def _embed_adapter(
    model: Model, encoder: Any, hidden: bool, image_prompts: Sequence[ImagePrompt], device: torch.device
) -> list[tuple[Embeds, Embeds]]:
    """The embeddings of one adapter's pictures for each of several requests."""
    import torch

    seen = [one for one in image_prompts if one.faces.adapter is None and one.embeds is None]
    encoded = iter(_embed(encoder, hidden, seen, device))

    def of(image_prompt: ImagePrompt) -> tuple[Embeds, Embeds]:
        if image_prompt.faces.adapter is not None:
            return _embed_faces(model, encoder, image_prompt, device)
        if image_prompt.embeds is None:
            return combined(image_prompt, *next(encoded))
        if (image_prompt.embeds.positive.ndim == 3) != hidden:
            raise IpaError(
                f"{image_prompt.embeds.source} was made for another kind of adapter", "make it anew: ipa embed"
            )
        both = torch.from_numpy(image_prompt.embeds.negative), torch.from_numpy(image_prompt.embeds.positive)
        negative, positive = (devices.sent(half, device, model.unet.dtype) for half in both)
        return combined(image_prompt, negative, positive)

    return [of(image_prompt) for image_prompt in image_prompts]


def _embed(
    encoder: Any, hidden: bool, image_prompts: Sequence[ImagePrompt], device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """The negative and the positive embeddings of the pictures of each image prompt, by one call of the encoder.

    Equal pictures are encoded once. `hidden`: the encoder's hidden states. A negative image is encoded for all pictures
    of an image prompt; of tiles it has none, as in ComfyUI.
    """
    import torch

    if not image_prompts:
        return []
    side = encoder.config.image_size
    numbers: dict[bytes, int] = {}
    distinct: list[Tensor] = []

    def pixels(image_prompt: ImagePrompt, picture: Image.Image, fit: str) -> list[Tensor]:
        squares = fitting.squares(picture, side, fit, image_prompt.sharpening)
        return [fitting.pixel_values(square) for square in squares]

    def number(one: Tensor) -> int:
        found = numbers.setdefault(one.numpy().tobytes(), len(distinct))
        if found == len(distinct):
            distinct.append(one)
        return found

    def negatives(image_prompt: ImagePrompt, seen: Sequence[Tensor]) -> list[int]:
        if image_prompt.negative is not None:
            fit = "crop" if image_prompt.fit == TILES else image_prompt.fit
            return [number(one) for one in pixels(image_prompt, image_prompt.negative.image, fit)]
        return [number(torch.zeros_like(seen[0]))] if hidden else []

    asked = []
    for one in image_prompts:
        each = [pixels(one, reference.image, one.fit) for reference in one.references]
        seen = [tile for tiles in zip(*each, strict=True) for tile in tiles]  # of each tile all references
        asked.append((negatives(one, seen), [number(tile) for tile in seen]))
    with torch.no_grad():
        found = encoder(devices.sent(torch.stack(distinct), device, encoder.dtype))
    rows = found.penultimate if hidden else found.embeds
    pairs = [(negative, torch.stack([rows[row] for row in positive])) for negative, positive in asked]
    return [
        (rows[negative[0]].expand_as(positive) if negative else torch.zeros_like(positive), positive)
        for negative, positive in pairs
    ]


def _embed_faces(model: Model, encoder: Any, image_prompt: ImagePrompt, device: torch.device) -> tuple[Embeds, Embeds]:
    """The negative and the positive embeddings of the faces of a FaceID adapter; the negative face is zero."""
    import numpy as np
    import torch

    from ipa_cli.networks.image_projection import FacePictures

    face, given = image_prompt.faces.adapter, image_prompt.embeds
    assert face is not None
    dtype = (model.unet or encoder).dtype  # encoders are loaded alone, to write a file
    if given is None:
        faces = face_embeds.in_its_length(np.stack([one.vector for one in image_prompt.faces.found]), face)
        faces = faces[:, None] if face.sequence else faces
    else:
        faces = given.faces if face.picture else given.positive
    positive = devices.sent(torch.from_numpy(faces), device, dtype)
    both = combined(image_prompt, torch.zeros_like(positive), positive)
    if not face.picture:
        return both
    if given is None:
        pictures = zip(image_prompt.references, image_prompt.faces.found, strict=True)
        references = tuple(replace(reference, image=one.picture) for reference, one in pictures)
        [states] = _embed(encoder, True, [replace(image_prompt, references=references)], device)
    else:
        halves = torch.from_numpy(given.negative), torch.from_numpy(given.positive)
        states = devices.sent(halves[0], device, dtype), devices.sent(halves[1], device, dtype)
    states, shortcut = combined(image_prompt, *states), image_prompt.faces.shortcut
    return FacePictures(both[0], states[0], shortcut), FacePictures(both[1], states[1], shortcut)
