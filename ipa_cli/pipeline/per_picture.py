"""References that are drawn one by one, not all together: `--image-per-picture`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ipa_cli.config import Settings
from ipa_cli.config.modes import CONCAT
from ipa_cli.errors import UsageError

if TYPE_CHECKING:
    from ipa_cli.pipeline.image_prompt import ImagePrompt


def count(settings: Settings, references: Sequence[int]) -> int:
    """How many pictures each seed makes: one for each reference, where they are drawn one by one.

    `references` are the numbers of those of each adapter; a single one serves all pictures. Raises UsageError where
    adapters have different numbers, and where they are to be combined.
    """
    if not settings.image_per_picture:
        return 1
    for one in settings.adapters:
        if one.combine != CONCAT:
            raise UsageError(
                f"--image-combine {one.combine} makes one of references that --image-per-picture draws one by one",
                "leave one of them out",
            )
    several = sorted({one for one in references if one > 1})
    if len(several) > 1:
        raise UsageError(
            f"adapters have {' and '.join(map(str, several))} reference pictures, and each is for a picture of its own",
            "give every adapter as many, or one for all pictures",
        )
    return max(several, default=1)


def check(settings: Settings, image_prompts: Sequence[ImagePrompt]) -> None:
    """Raise UsageError for what only references that are drawn together can have."""
    for one in image_prompts if settings.image_per_picture else ():
        if one.embeds is not None and len(one.weights) > 1:
            raise UsageError(
                f"{one.embeds.source} holds {len(one.weights)} pictures, and they are drawn together",
                "name the pictures with --image, or leave --image-per-picture out",
            )
        if len(one.masks) > 1:
            raise UsageError("pictures of one reference each have one mask for all", "give --mask once")


def only(image_prompt: ImagePrompt, number: int) -> ImagePrompt:
    """An image prompt with one of its references, or as it is where it has a single one for all pictures."""
    if len(image_prompt.references) < 2:
        return image_prompt
    own = (image_prompt.references[number],), (image_prompt.weights[number],)
    return replace(image_prompt, references=own[0], weights=own[1], faces=image_prompt.faces.at(number))


def own_settings(settings: Settings, image_prompts: Sequence[ImagePrompt]) -> Settings:
    """The settings that draw one of the pictures alone, whose references are those of `image_prompts`."""
    if not settings.image_per_picture:
        return settings

    def own(typed: Sequence[str], weights: Sequence[float], used: ImagePrompt) -> dict[str, Any]:
        if not typed:
            return {}
        return {"image": tuple(one.source for one in used.references), "weight": used.weights if weights else ()}

    pairs = zip(settings.adapter, image_prompts, strict=False)
    adapters = tuple(replace(one, **own(one.image, one.weight, used)) for one, used in pairs)
    plain = own(settings.image, settings.image_weight, image_prompts[0]) if image_prompts else {}
    plain = {"image": plain["image"], "image_weight": plain["weight"]} if plain else {}
    return replace(settings, image_per_picture=False, adapter=adapters, **plain)
