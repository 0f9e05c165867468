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
    for why, given in _of_adapters(settings.adapters, prompts).items():
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


def _of_adapters(configs: Sequence[AdapterConfig], prompts: Sequence[ImagePrompt]) -> dict[str, list[str]]:
    """The settings of adapters without an effect, by why; one for all adapters has none where no adapter uses it."""
    each = [(config, _of_adapter(config, one)) for config, one in zip(configs, prompts, strict=False)]
    found: dict[str, list[str]] = {}
    for config, unused in each:
        for name, why in unused.items():
            used = any(name not in other.stated and name not in without for other, without in each)
            given = found.setdefault(why, [])
            if (name in config.stated or not used) and _named(name, config) not in given:
                given.append(_named(name, config))
    return found


def _of_adapter(config: AdapterConfig, used: ImagePrompt) -> dict[str, str]:
    """The fields of an adapter that have no effect on its references, each with why."""
    found = {}
    if used.embeds is not None and not used.references:
        given = [name for name in OF_A_PICTURE if getattr(config, name) != FIELDS[SETTINGS[name]].default]
        found = dict.fromkeys(given, f"with the image embeddings {used.embeds.source}")
    if config.combine != CONCAT and len(used.weights) < 2:
        found["combine"] = "with a single reference"
    return found


def _named(name: str, config: AdapterConfig) -> str:
    return f"{name}= of --adapter" if name in config.stated else flag_of(SETTINGS[name])


def _note(given: Sequence[str], why: str, reporter: Reporter) -> None:
    if given:
        reporter.note(f"{', '.join(given)} {'has' if len(given) == 1 else 'have'} no effect {why}")
