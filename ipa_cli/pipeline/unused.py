"""Notes on settings that change nothing in a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ipa_cli.config import FIELDS, AdapterConfig, Settings
from ipa_cli.config.adapters import SETTINGS
from ipa_cli.config.modes import CONCAT
from ipa_cli.config.presets import SPEED
from ipa_cli.config.units import plural
from ipa_cli.config.values import flag_of

if TYPE_CHECKING:
    from ipa_cli.pipeline.image_prompt import ImagePrompt
    from ipa_cli.pipeline.task import Request
    from ipa_cli.result import Reporter

# Fields of an adapter that say how a picture is looked at.
OF_A_PICTURE = ("fit", "sharpening", "encoder")
# What says that there is no adapter, and what `references.remark_none` warns of.
SAID_ALREADY = ("ip_adapter", "image", "embeds", "negative_image")
OF_GUIDANCE = ("negative_prompt", "guidance_start", "guidance_end", "guidance_rescale", "gpus")


def remark(settings: Settings, request: Request, reporter: Reporter) -> None:
    """Note the settings of references and of guidance that were given for a request which has no use for them.

    Settings from a file or the environment are passed over, since they are for other pictures too.
    """
    prompts = request.image_prompts
    if not prompts:
        _note([flag_of(name) for name in _of_references(settings)], "without a reference", reporter)
    for why, unused in _of_adapters(settings, prompts).items():
        _note(unused, why, reporter)
    if prompts and all(len(one.weights) < 2 for one in prompts):
        _note(map(flag_of, settings.given("image_per_picture")), "with a single reference", reporter)
    _note(map(flag_of, settings.given("vae_slicing")), "as pictures are always decoded one at a time", reporter)
    if settings.given("step_cache") and request.step_cache.every > 1 and not request.steps_saved:
        asked = f"--preset {settings.preset}" if settings.preset in SPEED else f"--step-cache {request.step_cache}"
        _note([asked], f"in {plural(request.steps_taken, 'step')}", reporter)
    if not request.guided:
        unused = [flag_of(name) for name in settings.given(*OF_GUIDANCE)]
        negative = any(one.negative is not None for one in request.regions) and "region" not in settings.inherited
        unused += ["negative= of --region"] if negative else []
        _note(unused, f"without guidance (--guidance-scale {request.guidance_scale:g})", reporter)


def remark_all(settings: Settings, requests: Sequence[Request], reporter: Reporter) -> None:
    """The same for all requests of a command, and the settings that none of them has a use for."""
    remark(settings, requests[0], reporter)
    if all(len(one.seeds) == 1 for one in requests):
        _note(map(flag_of, settings.given("batch_size")), "with a single picture for each prompt", reporter)
    loras = [sum(not lora.of_adapter for lora in one.loras) for one in requests]
    if max(loras) == len(settings.lora):
        _note(map(flag_of, settings.given("lora_dir")), "without <lora:…> in a prompt", reporter)
    if all(len(one.embeddings) == len(settings.embedding) for one in requests):
        _note(map(flag_of, settings.given("embedding_dir")), "without embedding:name in a prompt", reporter)


def _of_references(settings: Settings) -> list[str]:
    """The settings of references that are given, where no adapter has any; a scale of 0 asks for none."""
    given = settings.given(*SETTINGS.values(), "image_per_picture")
    return [name for name in given if name not in SAID_ALREADY and (name != "scale" or settings.scale)]


def _of_adapters(settings: Settings, prompts: Sequence[ImagePrompt]) -> dict[str, list[str]]:
    """The settings of adapters without an effect, by why; one for all adapters has none where no adapter uses it."""
    each = [(config, _of_adapter(config, one)) for config, one in zip(settings.adapters, prompts, strict=False)]
    found: dict[str, list[str]] = {}
    for config, unused in each:
        for name, why in unused.items():
            used = any(name not in other.stated and name not in without for other, without in each)
            said = found.setdefault(why, [])
            if (name in config.stated or not used) and _named(name, config) not in said:
                inherited = ("adapter" if name in config.stated else SETTINGS[name]) in settings.inherited
                said += [] if inherited else [_named(name, config)]
    return found


def _of_adapter(config: AdapterConfig, used: ImagePrompt) -> dict[str, str]:
    """The fields of an adapter that have no effect on its references, each with why."""
    found, face = {}, used.faces.adapter
    given = [name for name in OF_A_PICTURE if getattr(config, name) != FIELDS[SETTINGS[name]].default]
    if face is not None and not face.picture:
        found = dict.fromkeys(given, f"with a {face} adapter, which sees no picture")
    elif used.embeds is not None and not used.references:
        found = dict.fromkeys(given, f"with the image embeddings {used.embeds.source}")
    if config.combine != CONCAT and len(used.weights) < 2:
        found["combine"] = "with a single reference"
    return found


def _named(name: str, config: AdapterConfig) -> str:
    return f"{name}= of --adapter" if name in config.stated else flag_of(SETTINGS[name])


def _note(names: Iterable[str], why: str, reporter: Reporter) -> None:
    if given := list(names):
        reporter.note(f"{', '.join(given)} {'has' if len(given) == 1 else 'have'} no effect {why}")
