"""What encoded prompts and references are known by: their content, so that equal requests share them.

Scales, the layers they act on, and the steps in which they count are no part of it: they stay inputs of every call.
Only layers where the negative half sees a reference are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Generic, TypeVar

from ipa_cli.models.lora.lora import acting
from ipa_cli.models.lora.targets import UNET
from ipa_cli.pipeline.image_prompt import ImagePrompt
from ipa_cli.pipeline.task import Request

Value = TypeVar("Value")


class LRU(Generic[Value]):
    """The `size` values used last, by key."""

    def __init__(self, size: int):
        self.size = size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of `key`, made where it is not there; the one not used for longest gives way to it."""
        if key not in self._values:
            while len(self._values) >= self.size:  # first, so that no more than `size` take memory at any time
                self._values.popitem(last=False)
            self._values[key] = make()
        self._values.move_to_end(key)
        return self._values[key]

    def get_all(self, keys: Sequence[Hashable], make: Callable[[list[int]], Sequence[Value]]) -> list[Value]:
        """The values of `keys`; `make` is called once for those that are not there, with a place of each in `keys`."""
        known = {key: self._values[key] for key in keys if key in self._values}
        places = {key: place for place, key in enumerate(keys) if key not in known}
        if places:
            known |= zip(places, make(list(places.values())), strict=True)
        return [self.get(key, partial(known.__getitem__, key)) for key in keys]

    def values(self) -> list[Value]:
        """All values, the one not used for longest first."""
        return list(self._values.values())

    def clear(self) -> None:
        """Forget all values."""
        self._values.clear()


def of_text(request: Request) -> Hashable:
    """What the encoded prompts of a request depend on."""
    texts = request.prompt, request.negative_prompt if request.guided else None, request.prompt_syntax
    regions = tuple((one.prompt, one.negative) for one in request.regions)
    embeddings = tuple((one.words, one.sha256) for one in request.embeddings)
    return (
        texts,
        regions,
        embeddings,
        tuple((lora.file.sha256, lora.text_weight) for lora in request.loras if lora.changes_text),
    )


def of_images(request: Request) -> Hashable:
    """What the encoded references of a request depend on."""
    return request.guided, tuple(map(_of_references, request.image_prompts))


def of_conditions(request: Request) -> Hashable:
    """What the keys and values of a request's layers, and their masks, depend on."""
    masks = tuple(tuple(mask.sha256 for mask in one.masks) for one in request.image_prompts)
    weights = tuple((one.value_weights, tuple(one.on_negative.items())) for one in request.image_prompts)
    regions = tuple((one.mask.sha256, one.weight) for one in request.regions)
    loras = acting(request.loras, UNET)  # they change what makes the keys and values of the text
    controls = tuple(one.content for one in request.controls)
    sized = bool(controls) or bool(regions) or any(one.masked for one in request.image_prompts)
    size = (request.width, request.height) if sized else None
    return of_text(request), of_images(request), weights, masks, regions, size, controls, request.batch_size, loras


def _of_references(one: ImagePrompt) -> Hashable:
    seen = tuple(source.sha256 for source in one.sources), one.negative and one.negative.sha256
    faces = tuple(face.sha256 for face in one.faces.found), one.faces.shortcut
    combined = (one.combine, one.weights) if one.combined else None
    return seen, one.embeds is None, one.fit, one.sharpening, combined, faces
