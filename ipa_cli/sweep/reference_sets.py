"""The references of a sweep's rows: a picture each, a file of embeddings each, or all of `--adapter` at once."""

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
from ipa_cli.pipeline.image_prompt import ImagePrompt, ModePattern
from ipa_cli.pipeline.task import Request
from ipa_cli.sweep import plan

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ReferenceSet:
    """What a row hands to every adapter, and for each whether the sweep sets its scale (`swept`) or it has its own.

    `own_mode` are those with a mode of their own, which the sweep does not vary.
    """

    name: str
    image_prompts: tuple[ImagePrompt, ...]
    swept: tuple[bool, ...]
    own_mode: tuple[bool, ...] = (False,)

    def at(self, scale: float, mode: ModePattern | None = None) -> tuple[ImagePrompt, ...]:
        """The image prompts at one scale of the sweep, and in one of its modes, where it has several."""
        found = []
        for image_prompt, swept, has_mode in zip(self.image_prompts, self.swept, self.own_mode, strict=True):
            one = replace(image_prompt, scale=scale) if swept else image_prompt
            found.append(one if mode is None or has_mode else one.in_mode(mode))
        return tuple(found)

    @property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of every picture and file of embeddings, without masks."""
        return tuple(source.sha256 for image_prompt in self.image_prompts for source in image_prompt.sources)

    @property
    def picture(self) -> Image | None:
        """The reference pictures side by side; None where there are only embeddings."""
        from PIL import Image, ImageOps

        images = [reference.image for image_prompt in self.image_prompts for reference in image_prompt.references]
        if len(images) < 2:
            return images[0] if images else None
        side = 256
        strip = Image.new("RGB", (side * len(images), side), "white")
        for number, image in enumerate(images):
            strip.paste(ImageOps.pad(image.convert("RGB"), (side, side), color="white"), (side * number, 0))
        return strip


def make(settings: Settings, model: Plan, base: Request, files: Sequence[str]) -> tuple[ReferenceSet, ...]:
    """The reference sets of a sweep; the first is in `base`, `files` are those of `--embeds`.

    Raises UsageError for references given twice, for embeddings of different numbers of pictures, and where no scale
    is left to sweep; IpaError for embeddings that cannot be read.
    """
    if settings.adapter:
        swept = tuple(one.scale is None for one in settings.adapters)
        if not any(swept):
            raise UsageError(
                "every --adapter has a scale of its own: there is none to sweep", "leave scale= out of one"
            )
        names = plan.labels([public_name(source.source) for source in base.sources])
        own_mode = tuple(bool({"mode", "layers"} & one.stated) for one in settings.adapter)
        return (ReferenceSet(" + ".join(names), base.image_prompts, swept, own_mode),)
    (image_prompt,) = base.image_prompts
    if files:
        plan.check_references(files, "--embeds")
        (adapter,) = model.adapters
        image_prompts = [replace(image_prompt, embeds=image_embeds.read(file, adapter)) for file in files]
        _check_same_count([one.embeds for one in image_prompts if one.embeds])
    else:
        plan.check_references([reference.source for reference in image_prompt.references], "--image")
        image_prompts = [
            replace(image_prompt, references=(reference,), weights=(1.0,), faces=image_prompt.faces.at(at))
            for at, reference in enumerate(image_prompt.references)
        ]
    return tuple(ReferenceSet(public_name(one.sources[0].source), (one,), (True,)) for one in image_prompts)


def _check_same_count(files: Sequence[Embeds]) -> None:
    """Raises UsageError: one graph draws all rows, which must have the same number of image tokens."""
    first, *others = files
    for other in others:
        if len(other.positive) != len(first.positive):
            counts = [f"{file.source} holds {plural(len(file.positive), 'picture')}" for file in (first, other)]
            raise UsageError(
                " and ".join(counts),
                "sweep them separately, or encode the same number of pictures into each with ipa embed",
            )


def describe(settings: Settings, reference_sets: Sequence[ReferenceSet]) -> dict[str, Any]:
    """What of the reference sets determines the pictures beside their content, as `sweep.json` keeps it."""
    image_prompts = reference_sets[0].image_prompts

    def one_or_list(values: Sequence[Any]) -> Any:
        return values[0] if len(values) == 1 else list(values)

    return {
        "ip_mode": one_or_list([image_prompt.mode for image_prompt in image_prompts]),
        "ip_layers": one_or_list([image_prompt.table for image_prompt in image_prompts]),
        "ip_steps": one_or_list([f"{image_prompt.start:g} to {image_prompt.end:g}" for image_prompt in image_prompts]),
        "masks": [mask.sha256 for image_prompt in image_prompts for mask in image_prompt.masks],
        "fit": one_or_list([image_prompt.fit for image_prompt in image_prompts]),
        "sharpening": one_or_list([image_prompt.sharpening or None for image_prompt in image_prompts]),
        "image_combine": one_or_list(
            [image_prompt.combine if image_prompt.combined else None for image_prompt in image_prompts]
        ),
        "negative_images": [one.negative.sha256 for one in image_prompts if one.negative is not None],
        "adapters": public_settings(settings, ["adapter"])["adapter"] if settings.adapter else None,
    }
