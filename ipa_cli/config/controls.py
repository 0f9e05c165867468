"""What one `--control` says: a ControlNet, the map it follows, and how strongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from ipa_cli.config import option_text
from ipa_cli.config.checks import Check, Choice, between, inside, short, unicode
from ipa_cli.config.places import is_repo_id
from ipa_cli.errors import IpaError, UsageError, suggest

EXAMPLE = "--control 'owner/name,image=pose.png,scale=0.7'"
# By their names in A1111's extension, each with the kind that its maps are of for a union model.
MAPS: Mapping[str, str | None] = {
    "canny": "canny",
    "lineart_standard": "lineart",
    "scribble_xdog": "scribble",
    "blur_gaussian": "tile",
    "invert": None,
}
PREPROCESSORS = Choice(tuple(MAPS))


def _mode(value: str) -> str | None:
    plain = value.isascii() and value.replace("-", "").replace("_", "").isalnum()
    return None if plain else "expected a kind of map, such as openpose, depth or canny"


# What is said of each map, and how it is checked; `image` is a place.
CHECKS: Mapping[str, Check] = {
    "image": unicode,
    "scale": between(0, 10),
    "start": between(0, 1),
    "end": between(0, 1),
    "preprocess": PREPROCESSORS,
    "mode": _mode,
}
KEYS = tuple(CHECKS)
NUMBERS = ("scale", "start", "end")


@dataclass(frozen=True)
class ControlConfig:
    """A ControlNet as it is asked for: a file, a folder or a hub repository, with what is named in it.

    `image` is the map, or with `preprocess` the picture that it is made of; None where requests bring it. The residuals
    are multiplied by `scale` in the steps that lie wholly between `start` and `end`, fractions of all steps. `mode` is
    the kind of the map for a union model.
    """

    source: str
    file: str | None = None
    image: str | None = None
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    preprocess: str | None = None
    mode: str | None = None

    def times(self, factor: float) -> ControlConfig:
        """The same with its scale multiplied by this."""
        return replace(self, scale=round(self.scale * factor, 6))

    @property
    def place(self) -> str:
        """The ControlNet itself, as the text begins."""
        return self.source if self.file is None else f"{self.source}:{self.file}"

    @property
    def name(self) -> str:
        """What requests call it: the repository, or the name of the file or folder without its ending."""
        return self.place if is_repo_id(self.source) else PurePath(self.file or self.source).stem

    def __str__(self) -> str:
        """The text of `--control`, which `parse` reads back."""
        stated = [(key, getattr(self, key)) for key in KEYS if getattr(self, key) != getattr(ControlConfig, key, None)]
        return ",".join([self.place, *(f"{key}={option_text.shown(value)}" for key, value in stated)])

    def with_places(self, change: Callable[[str, str], str]) -> ControlConfig:
        """The same with `change("control", place)` and `change("image", place)` in place of network and map."""
        image = None if self.image is None else change("image", self.image)
        return replace(self, source=change("control", self.source), image=image)


def parse(text: str, where: str, error: type[IpaError] = UsageError) -> ControlConfig:
    """The ControlNet that `text` specifies. Raises `error`, which names `where` the text came from."""
    first, pairs = option_text.split(text, KEYS, where, error)
    stated: dict[str, Any] = {}
    for key, value in pairs:
        if key in stated:
            raise error(f"{where} has {key} twice", f"give --control twice for two maps: {EXAMPLE}")
        stated[key] = option_text.number(value, f"{where}: {key}", error) if key in NUMBERS else value
    source, file = option_text.location(first, where, error)
    problem = "expected a file, folder or repository" if not source else unicode(source)
    if problem := problem or (inside(file) if file is not None else None):
        raise error(f"{where}: {problem}", EXAMPLE)
    return checked(ControlConfig(source, file, **stated), where, error)


def of_request(loaded: Sequence[ControlConfig], given: Any) -> tuple[ControlConfig, ...]:
    """The controls of a request: mappings with the keys of `--control` and the `model` of those that are loaded.

    That is a number or a name, and may be left out where one is loaded. Raises UsageError.
    """
    each = list({one.place: one for one in loaded}.values())
    if not each:
        raise UsageError("no ControlNet is loaded", "start with --control owner/name")
    found = []
    for mapping in given:
        for key in mapping:
            if key not in (*KEYS, "model"):
                raise UsageError(
                    f"control: unknown key '{short(key)}'{suggest(key, KEYS)}", f"known: model, {', '.join(KEYS)}"
                )
        model = mapping.get("model", 0 if len(each) == 1 else None)
        if type(model) is int:
            first = each[model] if 0 <= model < len(each) else None
        else:
            first = next((one for one in each if model in (one.name, one.place)), None)
        if first is None:
            raise UsageError(
                f"control: there is no model {short(model)}", f"loaded: {', '.join(one.name for one in each)}"
            )
        stated: dict[str, Any] = {
            key: float(value) if key in NUMBERS and type(value) is int else value for key, value in mapping.items()
        }
        stated = {key: value for key, value in stated.items() if key in KEYS and value is not None}
        for key, value in stated.items():
            if type(value) is not (float if key in NUMBERS else str):
                raise UsageError(f"control: {key} is {short(value)}", EXAMPLE)
        found.append(checked(ControlConfig(first.source, first.file, **stated), "control"))
    return tuple(found)


def checked(config: ControlConfig, where: str, error: type[IpaError] = UsageError) -> ControlConfig:
    """The same. Raises `error` for a value that is out of range."""
    for key, check in CHECKS.items():
        value = getattr(config, key)
        if value is not None and (problem := check(value)):
            raise error(f"{where}: {key}={option_text.shown(value)}: {problem}", EXAMPLE)
    if config.start >= config.end:
        span = f"{config.start:g} to {config.end:g}"
        raise error(f"{where} would act from {span} of the steps", "start=0,end=1 is all of them")
    return config
