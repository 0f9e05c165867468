"""What the rows of a sweep follow: a picture each, a file of embeddings each, or all of `--adapter` at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ipa_cli.config import Settings
from ipa_cli.config.privacy import public_name, public_settings
from ipa_cli.config.units import plural
from ipa_cli.errors import UsageError
from ipa_cli.models.plan import Plan
from ipa_cli.pipeline import image_embeds
from ipa_cli.pipeline.image_embeds import Embeds
from ipa_cli.pipeline.task import ImagePrompt, Request
from ipa_cli.sweep import plan

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Look:
    """How every adapter is used in a row, and whether the sweep sets its scale or it says its own."""

    name: str
    image_prompts: tuple[ImagePrompt, ...]
    swept: tuple[bool, ...]

    def at(self, scale: float) -> tuple[ImagePrompt, ...]:
        """The same at one scale of the sweep."""
        pairs = zip(self.image_prompts, self.swept, strict=True)
        return tuple(replace(image_prompt, scale=scale) if swept else image_prompt for image_prompt, swept in pairs)

    @property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of every file it is made of, masks left out."""
        return tuple(source.sha256 for image_prompt in self.image_prompts for source in image_prompt.sources)

    @property
    def picture(self) -> Image | None:
        """Its reference pictures beside each other; None where there are only embeddings."""
        from PIL import Image, ImageOps

        images = [reference.image for image_prompt in self.image_prompts for reference in image_prompt.references]
        if len(images) < 2:
            return images[0] if images else None
        side = 256
        strip = Image.new("RGB", (side * len(images), side), "white")
        for number, image in enumerate(images):
            strip.paste(ImageOps.pad(image.convert("RGB"), (side, side), color="white"), (side * number, 0))
        return strip


def lay_out(settings: Settings, model: Plan, base: Request, files: Sequence[str]) -> tuple[Look, ...]:
    """The looks of a sweep whose first is in `base`; `files` are those of `--embeds`.

    Raises UsageError for what is given twice, embeddings of unlike numbers of pictures, and where there is no scale
    left to sweep; IpaError for embeddings that cannot be read.
    """
    if settings.adapter:
        swept = tuple(one.scale is None for one in settings.adapters)
        if not any(swept):
            raise UsageError("every --adapter says its own scale: there is none to sweep", "leave scale= out of one")
        names = plan.labels([public_name(source.source) for source in base.sources])
        return (Look(" + ".join(names), base.image_prompts, swept),)
    (image_prompt,) = base.image_prompts
    if files:
        plan.check_references(files, "--embeds")
        (adapter,) = model.adapters
        image_prompts = [replace(image_prompt, embeds=image_embeds.read(file, adapter)) for file in files]
        _check_alike([one.embeds for one in image_prompts if one.embeds])
    else:
        plan.check_references([reference.source for reference in image_prompt.references], "--image")
        image_prompts = [
            replace(image_prompt, references=(reference,), weights=(1.0,)) for reference in image_prompt.references
        ]
    return tuple(Look(public_name(one.sources[0].source), (one,), (True,)) for one in image_prompts)


def _check_alike(files: Sequence[Embeds]) -> None:
    """One graph draws all rows, so that all must have as many image tokens."""
    first, *others = files
    for other in others:
        if len(other.positive) != len(first.positive):
            counts = [f"{file.source} holds {plural(len(file.positive), 'picture')}" for file in (first, other)]
            raise UsageError(" and ".join(counts), "sweep them one by one, or encode as many into each: ipa embed")


def plan_of(settings: Settings, looks: Sequence[Look]) -> dict[str, Any]:
    """What of the looks decides how the pictures come out, as `sweep.json` keeps it."""
    image_prompts = looks[0].image_prompts

    def each(values: Sequence[Any]) -> Any:
        return values[0] if len(values) == 1 else list(values)

    said = {
        "ip_mode": each([image_prompt.mode for image_prompt in image_prompts]),
        "ip_layers": each([image_prompt.table for image_prompt in image_prompts]),
        "ip_steps": each([f"{image_prompt.start:g} to {image_prompt.end:g}" for image_prompt in image_prompts]),
        "masks": [mask.sha256 for image_prompt in image_prompts for mask in image_prompt.masks],
        "fit": each([image_prompt.fit for image_prompt in image_prompts]),
    }
    return {**said, "adapters": public_settings(settings, ["adapter"])["adapter"]} if settings.adapter else said
