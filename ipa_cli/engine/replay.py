"""Draw a picture again: its settings become a layer between the flags and the environment.

A picture may come from anywhere: its settings are checked like any others, and those that are untrusted or not
understood are left out, with a note.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ipa_cli import backends
from ipa_cli.backends import AUTO
from ipa_cli.config import FIELDS, OWN, Layer, Resolved, Settings, Source, repositories, with_places
from ipa_cli.config.dropping import drops
from ipa_cli.config.privacy import public_name
from ipa_cli.engine.recorded import Recorded
from ipa_cli.errors import IpaError
from ipa_cli.images import reference
from ipa_cli.models import schedulers
from ipa_cli.models.lora.lora import Lora
from ipa_cli.models.prompts.syntax import has_word
from ipa_cli.pipeline.task import Request
from ipa_cli.result import Reporter
from ipa_cli.system.inputs import STDIN

# Settings about the machine that drew the picture, used only on a similar one.
OF_THE_MACHINE = ("device", "dtype", "precision", "backend")
# Settings that choose code are the user's: compiler options can name programs to run.
UNTRUSTED = tuple(name for name, field in FIELDS.items() if field.metadata["kind"] == OWN)
# Three ways to give references: a flag for one replaces what the picture has of the others.
REFERENCES = ("image", "embeds", "adapter")
# Settings that say something with a picture to begin with alone.
OF_AN_INIT_IMAGE = ("strength", "mask_blur")


def layer(
    recorded: Recorded, flags: Mapping[str, Any], reporter: Reporter, machine: Mapping[str, Any] | None = None
) -> Layer:
    """The picture's settings that apply on this machine, with notes on what is left out and why.

    `machine` are those settings `OF_THE_MACHINE` that another one draws with, in place of this one.
    """
    values, left_out = dict(recorded.values), list(recorded.left_out)
    for name in UNTRUSTED:
        if values.pop(name, None) is not None and flags.get(name) is None:
            left_out.append(f"{name} (give them with --{name.replace('_', '-')})")
    given = {name for name, value in flags.items() if value not in (None, (), []) and not drops(name, value)}
    if "embeds" in given:
        values.pop("face", None)  # of a picture that is not looked at
    if given.intersection(REFERENCES):
        left_out += [name for name in REFERENCES if values.pop(name, None) and name not in given]
    if flags.get("image") and values.pop("image_weight", None) and "image_weight" not in given:
        left_out.append("image_weight")
    if drops("init_image", flags.get("init_image")):
        for name in ("init_image", "inpaint_mask", "pad", *OF_AN_INIT_IMAGE):
            values.pop(name, None)
    if not values.get("init_image") and "init_image" not in given:
        found = {name: values.pop(name, None) for name in OF_AN_INIT_IMAGE}
        left_out += [f"{name} {value} (add --init-image)" for name, value in found.items() if value]
    for name in _not_of(flags.get("scheduler"), values):
        left_out += [] if name in given else [f"{name} {values[name]}"]
        del values[name]
    if left_out:
        reporter.note(f"{recorded.path}: left out: {', '.join(left_out)}")
    if machine is None:
        _fit_to_machine(recorded.path, values, flags, reporter)
    else:
        _fit_to_another(recorded.path, values, machine, reporter)
    return Layer(Source("picture", f"picture {recorded.path}"), values)


def _not_of(sampler: str | None, values: Mapping[str, Any]) -> list[str]:
    """Settings of a picture's sampler that `sampler`, which a flag asks for in its place, does not take."""
    found = None if sampler is None else schedulers.find(sampler)
    if found is None:
        return []
    name, schedule = found
    one, place = schedulers.SCHEDULERS[name], values.get("schedule")
    taken = schedule is None and schedulers.find_schedule(str(place)) in one.schedules
    missing = {"schedule": place is not None and not taken, "eta": values.get("eta") is not None and not one.has_eta}
    return [setting for setting, is_missing in missing.items() if is_missing]


def check_places(recorded: Recorded, resolved: Resolved, allowed: bool, reporter: Reporter) -> None:
    """Report which places the picture's settings name.

    Raises IpaError for an address, unless `allowed`, for stdin, and for a pattern, which could match anything.
    """
    names = [name for name, source in resolved.sources.items() if source.kind == "picture"]
    named: list[str] = []

    def look(name: str, place: str) -> str:
        named.append(place)
        flag = f"name the file with --{name}"
        if place == STDIN:
            raise IpaError(f"{name} {place} of {recorded.path} came from stdin", flag)
        if name in ("image", "negative_image", "mask", "init_image", "inpaint_mask", "region") and reference.is_pattern(
            place
        ):
            raise IpaError(f"{name} {place} of {recorded.path} is a pattern, not one picture", flag)
        return place

    for name in names:
        with_places(name, getattr(resolved.settings, name), look)
    addresses = [public_name(place) for place in named if "://" in place]
    if addresses and not allowed:
        hint = "add --allow-fetch to download it, or name a file with --image"
        raise IpaError(f"{recorded.path} names {addresses[0]}, and ipa contacts no server because of a picture", hint)
    elsewhere = [place for place in named if place.startswith(("/", "~", ".."))]
    hub = repositories(resolved.settings, names)
    for said, found in (("downloads", addresses), ("reads", elsewhere), ("loads from the hub", hub)):
        if found:
            reporter.note(f"{recorded.path}: {said} {', '.join(found)}")


def check_there(recorded: Recorded, settings: Settings) -> None:
    """Raise IpaError if a reference picture that is used again is not where it was."""
    for source, _ in _used_again(recorded, settings):
        try:
            reference.expand(source)
        except IpaError as error:
            kinds = (
                ("the init image", "init-image", [settings.init_image]),
                ("the mask of the init image", "inpaint-mask", [settings.inpaint_mask]),
                ("the mask of a region", "region", [one.mask for one in settings.region]),
                ("the map of a ControlNet", "control", [one.image for one in settings.control]),
                ("the negative image", "negative-image", [one.negative_image for one in settings.adapters]),
            )
            usual = ("a reference picture", "image")
            what, flag = next(((what, flag) for what, flag, sources in kinds if source in sources), usual)
            raise IpaError(
                f"{what} of {recorded.path} is missing: {error.message}", f"name the file with --{flag}"
            ) from error


def check_embeddings(recorded: Recorded, request: Request, reporter: Reporter) -> None:
    """Warn if another embedding, or none, stands for a word of a prompt."""
    words = {word.lower(): one.sha256 for one in request.embeddings for word in one.words}
    texts = request.texts
    for word, known in recorded.embeddings.items():
        if words.get(word.lower()) != known and has_word([word], texts, request.prompt_syntax):
            reporter.warn(f"{word} is another embedding than when {recorded.path} was drawn, or none")


def check_same(recorded: Recorded, settings: Settings, here: Collection[str], reporter: Reporter) -> None:
    """Warn if a reference picture has changed since: if its digest is not among those `here`."""
    own = [
        (source, digest)
        for source, digest in recorded.references
        if source is None and not settings.image and not settings.adapter
    ]
    for source, digest in (*_used_again(recorded, settings), *own):
        if digest is not None and digest not in here:
            name = source or "the model's own reference picture"
            reporter.warn(f"{name} has changed since {recorded.path} was drawn: the new picture will differ")


def check_same_loras(recorded: Recorded, loaded: Sequence[Lora], reporter: Reporter) -> None:
    """Warn if the file of a LoRA has changed since."""
    here = {(lora.file.name, lora.file.sha256) for lora in loaded}
    for name, digest in recorded.loras:
        if (name, digest) not in here and name in dict(here):
            reporter.warn(f"the LoRA {name} has changed since {recorded.path} was drawn: the new picture will differ")


def check_backend(recorded: Recorded, used: str, reporter: Reporter) -> None:
    """Warn if another backend than the recorded one has drawn the new picture."""
    before = recorded.values.get("backend")
    if before not in (None, AUTO, used):
        reporter.warn(
            f"{recorded.path} was drawn by the backend {before}, the new picture by {used}: it differs slightly"
        )


def _used_again(recorded: Recorded, settings: Settings) -> list[tuple[str, str | None]]:
    images = {text for one in settings.adapters for text in (*one.image, one.negative_image)}
    images |= {settings.init_image, settings.inpaint_mask, *(one.image for one in settings.control)}
    images |= {one.mask for one in settings.region}
    return [(source, digest) for source, digest in recorded.references if source and source in images]


# --- what applies here ----------------------------------------------------------------------------------------


def _fit_to_machine(path: Path, values: dict[str, Any], flags: Mapping[str, Any], reporter: Reporter) -> None:
    there = values.get("device")
    here = _device_here(there, flags.get("device"))
    if here != there:
        lost = ", ".join(str(values[name]) for name in OF_THE_MACHINE if values.get(name) not in (None, "half"))
        for name in OF_THE_MACHINE:
            values.pop(name, None)
        reporter.warn(f"{path} was drawn with {lost}, and this is {here}: the new picture will differ slightly")
    backend = values.get("backend")
    if flags.get("backend") is None and backend in backends.MODULES:
        problem = backends.problem(str(backend))
        if problem is not None:
            del values["backend"]
            values.pop("precision", None)
            reporter.warn(f"{path} was drawn by a backend that is not available: {problem.message}; another is used")


def _fit_to_another(path: Path, values: dict[str, Any], machine: Mapping[str, Any], reporter: Reporter) -> None:
    """Leave out what the other machine draws with in any case, with a warning where it is something else."""
    there = {name: values.pop(name, None) for name in OF_THE_MACHINE}
    differing = [name for name in OF_THE_MACHINE if there[name] not in (None, machine[name]) and machine[name] != AUTO]
    if differing:
        lost, here = (", ".join(str(one[name]) for name in differing) for one in (there, machine))
        reporter.warn(f"{path} was drawn with {lost}, and the server has {here}: the new picture will differ slightly")


def _device_here(there: Any, flag: str | None) -> Any:
    """The type of device that will draw: that of the flag, or the picture's if there is one."""
    if there is None or (there == "cpu" and flag in (None, "cpu")):
        return there  # every machine has a CPU, so torch need not be imported
    from ipa_cli.hardware import devices

    if flag is not None:
        return devices.pick_device(flag).type
    try:
        return devices.pick_device(str(there)).type
    except IpaError:
        return devices.pick_device("auto").type
