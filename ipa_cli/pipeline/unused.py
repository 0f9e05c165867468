"""Notes on settings that change nothing in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipa_cli.config import FIELDS, AdapterConfig, Settings
from ipa_cli.config.adapters import SETTINGS
from ipa_cli.config.modes import CONCAT
from ipa_cli.config.values import flag_of

if TYPE_CHECKING:
    from ipa_cli.pipeline.image_prompt import ImagePrompt
    from ipa_cli.pipeline.task import Request
    from ipa_cli.result import Reporter

# Fields of an adapter that say how a picture is looked at.
OF_A_PICTURE = ("fit", "sharpening", "encoder")
# What says that there is no adapter, and what `references.remark_none` warns of.
SAID_ALREADY = ("ip_adapter", "image", "embeds", "negative_image")
OF_GUIDANCE = ("negative_prompt", "guidance_start", "guidance_end", "guidance_rescale")


def remark(settings: Settings, request: Request, reporter: Reporter) -> None:
    """Note the settings of references and of guidance that a request has no use for."""
    prompts = request.image_prompts
    if not prompts:
        _note([flag_of(name) for name in _of_references(settings)], "without a reference", reporter)
    for config, one in zip(settings.adapters, prompts, strict=False):
        for given, why in _of_adapter(config, one):
            _note(given, why, reporter)
    if settings.image_per_picture and prompts and all(len(one.weights) < 2 for one in prompts):
        _note(["--image-per-picture"], "with a single reference", reporter)
    if not request.guided:
        given = [flag_of(name) for name in OF_GUIDANCE if getattr(settings, name) != FIELDS[name].default]
        given += ["negative= of --region"] if any(one.negative is not None for one in request.regions) else []
        _note(given, f"without guidance (--guidance-scale {request.guidance_scale:g})", reporter)


def _of_references(settings: Settings) -> list[str]:
    """The settings of references that are given, where no adapter has any; a scale of 0 asks for none."""
    values = {name: getattr(settings, name) for name in (*SETTINGS.values(), "image_per_picture")}
    given = [name for name, value in values.items() if value != FIELDS[name].default and name not in SAID_ALREADY]
    return [name for name in given if name != "scale" or values[name]]


def _of_adapter(config: AdapterConfig, used: ImagePrompt) -> list[tuple[list[str], str]]:
    """What an adapter says of its references without an effect, and why it has none."""
    found = []
    if used.embeds is not None and not used.references:
        given = [name for name in OF_A_PICTURE if getattr(config, name) != FIELDS[SETTINGS[name]].default]
        found.append(([_named(name, config) for name in given], f"with the image embeddings {used.embeds.source}"))
    if config.combine != CONCAT and len(used.weights) < 2:
        found.append(([_named("combine", config)], "with a single reference"))
    return found


def _named(name: str, config: AdapterConfig) -> str:
    return f"{name}= of --adapter" if name in config.stated else flag_of(SETTINGS[name])


def _note(given: Sequence[str], why: str, reporter: Reporter) -> None:
    if given:
        reporter.note(f"{', '.join(given)} {'has' if len(given) == 1 else 'have'} no effect {why}")
