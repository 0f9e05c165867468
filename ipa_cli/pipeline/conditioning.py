"""Prompts and reference pictures as tensors; with guidance the negative half comes first, as in diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ipa_cli.config.modes import TILES
from ipa_cli.errors import IpaError
from ipa_cli.hardware import devices
from ipa_cli.images import fitting
from ipa_cli.models.architectures.base import PromptEmbeds, Text
from ipa_cli.models.prompts import chunks, syntax
from ipa_cli.pipeline import face_embeds, regions
from ipa_cli.pipeline.combination import combined
from ipa_cli.result import Reporter
from ipa_cli.unet import layers

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from ipa_cli.models.loader import Model
    from ipa_cli.networks.image_projection import FacePictures
    from ipa_cli.pipeline.denoise import Conditions
    from ipa_cli.pipeline.image_prompt import ImagePrompt
    from ipa_cli.pipeline.task import Request

    Embeds = Tensor | FacePictures


def encode_texts(
    model: Model, requests: Sequence[Request], device: torch.device, reporter: Reporter
) -> list[list[PromptEmbeds]]:
    """For each request the prompts of the picture, then those of each region, see `PromptEmbeds`; B is 2 with guidance.

    Those of a request all have as many chunks as its longest: chunks of the empty prompt fill up the others. Each text
    encoder is called once. Warns which words of a literal prompt do not fit.
    """
    each = []
    for request in requests:
        found = [_texts(model, one, reporter) for one in _with_regions(request)]
        longest = max(text.chunks for texts in found for text in texts)
        each.append([[replace(text, chunks=longest) for text in texts] for texts in found])
    every = [text for found in each for texts in found for text in texts]
    encoded = iter(model.architecture.encode_prompts(model, every, device))
    return [
        [_halves([next(encoded) for _ in texts], request.guided) for texts in found]
        for request, found in zip(requests, each, strict=True)
    ]


def _with_regions(request: Request) -> list[Request]:
    """The request, and one with the prompts of each of its regions."""
    each = [request]
    for one in request.regions:
        negative = request.negative_prompt if one.negative is None else one.negative
        each.append(replace(request, prompt=one.prompt, negative_prompt=negative, regions=()))
    return each


def _texts(model: Model, request: Request, reporter: Reporter) -> list[Text]:
    """The prompt, and the negative one where it is encoded, each with its number of chunks."""
    zeros = not request.negative_prompt and model.zeros_for_empty_prompt
    texts = {"prompt": request.prompt}
    if request.guided and not zeros:
        texts["negative prompt"] = request.negative_prompt
    vectors = _vectors(model, request)
    found = {name: Text(syntax.parse(text, request.prompt_syntax), vectors) for name, text in texts.items()}
    return [replace(text, chunks=_count(model, name, text, reporter)) for name, text in found.items()]


def _halves(encoded: Sequence[PromptEmbeds], guided: bool) -> PromptEmbeds:
    """Both halves of a batch with guidance, of a prompt and its negative one; without the latter that is zeros."""
    import torch

    positive, *negative = encoded
    if not guided:
        return positive
    if negative:
        pairs = list(zip(negative[0], positive, strict=True))
    else:
        pairs = [(None if states is None else torch.zeros_like(states), states) for states in positive]
    return PromptEmbeds(*(torch.cat([one, two]) for one, two in pairs if one is not None and two is not None))


def _count(model: Model, name: str, text: Text, reporter: Reporter) -> int:
    """The number of chunks of a prompt, with a word on more than one and on what is left out."""
    tokenizer = model.tokenizers[0]
    found, lost = chunks.chunked(text.prompt, tokenizer, text.vectors[0] if text.vectors else {})
    if lost:
        limit = tokenizer.model_max_length - 2
        reporter.warn(f"the {name} is longer than {limit} tokens; left out: {tokenizer.text(lost)}")
    if len(found) > 1:
        reporter.note(
            f"the {name} takes {len(found)} chunks of {tokenizer.model_max_length} tokens; "
            "each number of chunks has compiled graphs of its own"
        )
    return len(found)


def _vectors(model: Model, request: Request) -> list[dict[str, Tensor]]:
    """The textual inversions of a request, for each text encoder, by every word that stands for one."""
    parts = range(len(model.text_encoders)) if request.embeddings else ()
    return [{word: one.vectors[part] for one in request.embeddings for word in one.words} for part in parts]


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
    encoded = iter(embed(encoder, hidden, seen, device))

    def of(image_prompt: ImagePrompt) -> tuple[Embeds, Embeds]:
        if image_prompt.faces.adapter is not None:
            return embed_faces(model, encoder, image_prompt, device)
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


def embed(
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


def embed_faces(model: Model, encoder: Any, image_prompt: ImagePrompt, device: torch.device) -> tuple[Embeds, Embeds]:
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
        [states] = embed(encoder, True, [replace(image_prompt, references=references)], device)
    else:
        halves = torch.from_numpy(given.negative), torch.from_numpy(given.positive)
        states = devices.sent(halves[0], device, dtype), devices.sent(halves[1], device, dtype)
    states, shortcut = combined(image_prompt, *states), image_prompt.faces.shortcut
    return FacePictures(both[0], states[0], shortcut), FacePictures(both[1], states[1], shortcut)


def join(model: Model, texts: list[PromptEmbeds], images: list[Embeds], request: Request) -> Conditions:
    """Every layer's keys and values from encoded prompts and references, masks, shares, and the scales of `request`.

    Without references it is the text alone, whatever adapters are loaded.
    """
    from ipa_cli.pipeline.denoise import Conditions
    from ipa_cli.unet import attention

    hidden, used = texts[0].hidden, request.image_prompts
    names, levels = attention.layers(model.unet), len(model.unet.config.down_block_types)
    size = request.width, request.height
    seen = masks(used, names, levels, *size, model.architecture.latent_factor, hidden.device, hidden.dtype)
    adapters = model.adapters if used else attention.Adapters((), ())
    weights, parts = [one.value_weights for one in used], [one.parts for one in used]
    scale = devices.sent(scales(used, names), hidden.device)
    context = attention.project(model.unet, adapters, hidden, images, scale, weights, parts)
    context = context._replace(image=_on_negative(context.image, used, names, request.guided))
    pooled = texts[0].pooled
    if request.regions:
        shares = regions.shares(request.regions, *size)
        factor = model.architecture.latent_factor
        grids = [_grid(name, levels, size[0] // factor, size[1] // factor) for name in names]
        context = context._replace(
            regions=[attention.project_text(model.unet, one.hidden) for one in texts[1:]],
            share=regions.of_layers(shares, grids, hidden.device, hidden.dtype),
        )
        pooled = regions.pooled([one.pooled for one in texts], shares)
    return Conditions(model.architecture, context._replace(mask=seen), pooled, spans(used), guided=request.guided)


def _on_negative(
    image: list[list[Tensor]], image_prompts: Sequence[ImagePrompt], names: Sequence[str], guided: bool
) -> list[list[Tensor]]:
    """The images' keys and values, where layers are `ImagePrompt.on_negative` those of the other half.

    The positive half then has keys and values of zero, of which attention makes zeros.
    """
    import torch

    def moved(pair: Tensor) -> Tensor:
        nothing = torch.zeros_like(pair.chunk(2, 1)[1] if guided else pair)
        return torch.cat([pair.chunk(2, 1)[1], nothing], 1) if guided else nothing

    rows = [layers.factors(names, one.on_negative) for one in image_prompts for _ in range(one.parts)]
    return [
        [moved(pair) if move else pair for pair, move in zip(row, moves, strict=True)]
        for row, moves in zip(image, rows, strict=True)
    ]


def spans(image_prompts: Sequence[ImagePrompt]) -> tuple[tuple[float, float], ...]:
    """Per row of `scales`, the fractions of the steps between which it is not 0."""
    return tuple((one.start, one.end) for one in image_prompts for _ in range(one.parts))


def scales(image_prompts: Sequence[ImagePrompt], names: Sequence[str]) -> Tensor:
    """The per-row scale on each layer of `attention.layers`, (rows, layers), float32; for rows see `inputs.Context`."""
    import torch

    rows = [
        [image_prompt.scale * factor for factor in layers.factors(names, image_prompt.pattern)]
        for image_prompt in image_prompts
        for _ in range(image_prompt.parts)
    ]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(names))


def masks(
    image_prompts: Sequence[ImagePrompt],
    names: Sequence[str],
    levels: int,
    width: int,
    height: int,
    latent_factor: int,
    device: torch.device,
    dtype: Any,
) -> list[list[Tensor]]:
    """The masks as `inputs.Context` has them, for a picture of this size; empty when no adapter has one.

    Made smaller for each layer as diffusers' `IPAdapterMaskProcessor` does. `levels`: blocks of the UNet one way down.
    """
    if not any(image_prompt.masked for image_prompt in image_prompts):
        return []
    grids = [_grid(name, levels, width // latent_factor, height // latent_factor) for name in names]
    pixels = [columns * rows for columns, rows in grids]
    result = []
    for whole in (whole for image_prompt in image_prompts for whole in _rows(image_prompt, width, height)):
        small = {
            count: devices.sent(_downsampled(whole, count)[None, None, :, None], device, dtype) for count in set(pixels)
        }
        result.append([small[count] for count in pixels])
    return result


def _rows(image_prompt: ImagePrompt, width: int, height: int) -> list[Tensor]:
    """For each row of an image prompt, 1 where it acts and 0 elsewhere, (height, width)."""
    import torch

    wholes = [_binary(mask.image, width, height) for mask in image_prompt.masks] or [torch.ones(height, width)]
    if not image_prompt.tiles:
        return wholes
    rows = []
    for area in image_prompt.tiles:
        left, right = (round(width * end) for end in (area.left, area.right))
        top, bottom = (round(height * end) for end in (area.top, area.bottom))
        rows.append(torch.zeros(height, width))
        rows[-1][top:bottom, left:right] = wholes[0][top:bottom, left:right]
    return rows


def _binary(mask: Image.Image, width: int, height: int) -> Tensor:
    """A mask at the picture's size, (height, width): 1 where it is at least half white."""
    import numpy as np
    import torch
    from PIL import Image

    resized = mask.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).convert("L")
    return (torch.from_numpy(np.asarray(resized, dtype=np.float32) / 255) >= 0.5).float()


def _downsampled(mask: Tensor, pixels: int) -> Tensor:
    """A mask for a layer that sees so many pixels, (pixels,): of another shape by rounding alone, filled up or cut."""
    import torch.nn.functional as F

    height, width = mask.shape
    rows = int((pixels * height / width) ** 0.5)
    rows += pixels % rows != 0
    small = F.interpolate(mask[None, None], size=(rows, pixels // rows), mode="bicubic").flatten()
    return F.pad(small, (0, max(0, pixels - len(small))))[:pixels]


def _grid(name: str, levels: int, width: int, height: int) -> tuple[int, int]:
    """Columns and rows of pixels that the layer called `name` sees of a picture of this size in latent pixels."""
    part, number, *_ = name.split(".")
    depth = {"down_blocks": lambda: int(number), "up_blocks": lambda: levels - 1 - int(number)}
    for _ in range(depth.get(part, lambda: levels - 1)()):
        width, height = -(-width // 2), -(-height // 2)
    return width, height
