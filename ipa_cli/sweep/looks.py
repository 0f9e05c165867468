"""What the rows of a sweep follow: a picture each, a file of embeddings each, or all of `--adapter` at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ipa_cli.config import Settings, adapter_options
from ipa_cli.config.privacy import public_name, public_settings
from ipa_cli.config.units import plural
from ipa_cli.errors import UsageError
from ipa_cli.models.plan import Plan
from ipa_cli.pipeline import image_embeds
from ipa_cli.pipeline.image_embeds import Embeds
from ipa_cli.pipeline.task import Task, Use
from ipa_cli.sweep import plan

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Look:
    """How every adapter is used in a row, and whether the sweep sets its scale or it says its own."""

    name: str
    uses: tuple[Use, ...]
    swept: tuple[bool, ...]

    def at(self, scale: float) -> tuple[Use, ...]:
        """The same at one scale of the sweep."""
        pairs = zip(self.uses, self.swept, strict=True)
        return tuple(replace(use, scale=scale) if swept else use for use, swept in pairs)

    @property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of every file it is made of, masks left out."""
        return tuple(source.sha256 for use in self.uses for source in use.sources)

    @property
    def picture(self) -> Image | None:
        """Its reference pictures beside each other; None where there are only embeddings."""
        from PIL import Image, ImageOps

        images = [reference.image for use in self.uses for reference in use.references]
        if len(images) < 2:
            return images[0] if images else None
        side = 256
        strip = Image.new("RGB", (side * len(images), side), "white")
        for number, image in enumerate(images):
            strip.paste(ImageOps.pad(image.convert("RGB"), (side, side), color="white"), (side * number, 0))
        return strip


def lay_out(settings: Settings, model: Plan, base: Task, files: Sequence[str]) -> tuple[Look, ...]:
    """The looks of a sweep whose first is in `base`; `files` are those of `--embeds`.

    Raises UsageError for what is given twice, embeddings of unlike numbers of pictures, and where there is no scale
    left to sweep; IpaError for embeddings that cannot be read.
    """
    if settings.adapter:
        swept = tuple(one.scale is None for one in adapter_options.each(settings))
        if not any(swept):
            raise UsageError("every --adapter says its own scale: there is none to sweep", "leave scale= out of one")
        names = plan.labels([public_name(source.source) for source in base.sources])
        return (Look(" + ".join(names), base.adapters, swept),)
    (use,) = base.adapters
    if files:
        plan.check_references(files, "--embeds")
        (adapter,) = model.adapters
        uses = [replace(use, embeds=image_embeds.read(file, adapter)) for file in files]
        _check_alike([one.embeds for one in uses if one.embeds])
    else:
        plan.check_references([reference.source for reference in use.references], "--image")
        uses = [replace(use, references=(reference,), weights=(1.0,)) for reference in use.references]
    return tuple(Look(public_name(one.sources[0].source), (one,), (True,)) for one in uses)


def _check_alike(files: Sequence[Embeds]) -> None:
    """One graph draws all rows, so that all must have as many image tokens."""
    first, *others = files
    for other in others:
        if len(other.positive) != len(first.positive):
            counts = [f"{file.source} holds {plural(len(file.positive), 'picture')}" for file in (first, other)]
            raise UsageError(" and ".join(counts), "sweep them one by one, or encode as many into each: ipa embed")


def plan_of(settings: Settings, looks: Sequence[Look]) -> dict[str, Any]:
    """What of the looks decides how the pictures come out, as `sweep.json` keeps it."""
    uses = looks[0].uses

    def each(values: Sequence[Any]) -> Any:
        return values[0] if len(values) == 1 else list(values)

    said = {
        "ip_mode": each([use.mode for use in uses]),
        "ip_layers": each([use.table for use in uses]),
        "ip_steps": each([f"{use.start:g} to {use.end:g}" for use in uses]),
        "masks": [mask.sha256 for use in uses for mask in use.masks],
        "fit": each([use.fit for use in uses]),
    }
    return {**said, "adapters": public_settings(settings, ["adapter"])["adapter"]} if settings.adapter else said
