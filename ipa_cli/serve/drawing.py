"""From what a request asks for to what the engine draws: everything is checked here, before it waits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ipa_cli.config import FIELDS, Settings
from ipa_cli.config.adapters import KEYS, SETTINGS
from ipa_cli.config.dropping import NO_IMAGE
from ipa_cli.config.requests import FOLDERS
from ipa_cli.config.setting import PICTURE, REFERENCE
from ipa_cli.engine import keywords
from ipa_cli.errors import UsageError
from ipa_cli.images import encode
from ipa_cli.models import diffusers_schedulers, schedulers
from ipa_cli.pipeline import unused
from ipa_cli.pipeline.init_image import size
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.review import review
from ipa_cli.pipeline.task import Request, make_request
from ipa_cli.serve.asked import Asked, named
from ipa_cli.serve.limits import Limits, check, check_size

if TYPE_CHECKING:
    from ipa_cli.models.lora.lora import Lora
    from ipa_cli.models.plan import Plan
    from ipa_cli.result import Reporter


def make(
    asked: Asked,
    settings: Settings,
    plan: Plan,
    limits: Limits,
    reporter: Reporter,
    allow_fetch: bool,
    loras: tuple[Lora, ...] = (),
) -> tuple[Settings, Request]:
    """The settings and the request that `asked` means on an engine that was opened with `settings`.

    Raises UsageError and IpaError for what is wrong, before anything is drawn.
    """
    given, in_memory = named(asked, allow_fetch)
    if given.get("image") and given["image"] != NO_IMAGE and not plan.adapters:
        raise UsageError("no adapter is loaded that could follow a reference", "start the server with --ip-adapter")
    given["num_images"] = given.get("num_images") or 1
    base = _bare(settings) if asked.bare else settings
    folders: dict[str, Any] = dict.fromkeys(name for name in FOLDERS if name not in asked.folders)
    wanted, _ = keywords.of_request(replace(base, **folders), given)
    wanted = replace(wanted, inherited=wanted.inherited.union(asked.inherited))
    schedulers.choose(wanted.scheduler, wanted.schedule, wanted.eta)
    loaded = load_references(wanted, reporter, in_memory)
    if loaded.init is not None:  # it is brought to size with the request
        check_size(*size(wanted, plan, loaded.init), limits)
    request = make_request(wanted, plan, loaded, loras, reporter)
    if asked.bare:  # one of several requests, which have a batch size in common
        request = replace(request, batch_size=wanted.batch_size)
    for one in request.passes:
        diffusers_schedulers.check_steps(one.sampling, plan, one.steps)
    for one in request.passes:
        check(one, limits)
    encode.check(asked.format, asked.quality, request.texts)
    unused.remark(wanted, request, reporter)
    review(request, wanted, plan, reporter)
    return wanted, request


def _bare(settings: Settings) -> Settings:
    """The same model, adapters, LoRAs and embeddings with the defaults of all that describes a picture."""
    own = ("adapter", "lora", "control", "embedding", *FOLDERS)
    plain: dict[str, Any] = {
        name: one.default for name, one in FIELDS.items() if one.metadata["panel"] in (PICTURE, REFERENCE)
    }
    keys: dict[str, Any] = {key: FIELDS[SETTINGS[key]].default for key in KEYS if key != "encoder"}
    adapters = tuple(replace(one, **keys, stated=one.stated & {"encoder"}) for one in settings.adapter)
    controls = tuple(replace(one, image=None) for one in settings.control)
    kept = {name: plain[name] for name in plain if name not in own}
    return replace(settings, **kept, adapter=adapters, control=controls)
