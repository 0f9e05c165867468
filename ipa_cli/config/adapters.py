"""The settings of one IP-Adapter: what one `--adapter` says, or the plain flags together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ipa_cli.config import option_text


def _setting(name: str) -> Any:
    return field(metadata={"setting": name})


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of one IP-Adapter; each field is the setting named in its metadata, for this adapter alone.

    `stated` are the fields that its `--adapter` gives; the others have the values of the plain settings.
    """

    source: str | None = _setting("ip_adapter")  # repository, folder or file; None is the model's own
    subfolder: str | None = _setting("ip_adapter_subfolder")
    file: str | None = _setting("ip_adapter_weight_name")
    image: tuple[str, ...] = _setting("image")
    weight: tuple[float, ...] = _setting("image_weight")
    combine: str = _setting("image_combine")
    negative_image: str | None = _setting("negative_image")
    mask: tuple[str, ...] = _setting("mask")
    embeds: str | None = _setting("embeds")
    scale: float | None = _setting("scale")  # None is the model's
    mode: str = _setting("ip_mode")
    layers: str | None = _setting("ip_layers")
    start: float = _setting("ip_start")
    end: float = _setting("ip_end")
    fit: str = _setting("fit")
    sharpening: float = _setting("sharpening")
    encoder: str | None = _setting("image_encoder")
    face: int | None = _setting("face")
    lora: float = _setting("ip_lora")
    shortcut: float | None = _setting("face_shortcut")
    stated: frozenset[str] = frozenset()
    follows_none: bool = False  # not even the model's own reference

    def __str__(self) -> str:
        """The text of `--adapter`, which `adapter_options.parse` reads back."""
        parts = [self._location()]
        for name in (name for name in KEYS if name in self.stated):
            value = getattr(self, name)
            parts += [f"{name}={option_text.shown(one)}" for one in (value if isinstance(value, tuple) else (value,))]
        return ",".join(parts)

    def _location(self) -> str:
        if self.source is None:
            return "own"
        if self.subfolder is self.file is None:
            return self.source
        folder = "" if self.subfolder is None else f"{self.subfolder}/"
        return f"{self.source}:{folder}{self.file or ''}"

    def with_scale(self, scale: float) -> AdapterConfig:
        """The same adapter stating a scale of its own."""
        return replace(self, scale=scale, stated=self.stated | {"scale"})

    def with_defaults(self, plain: AdapterConfig) -> AdapterConfig:
        """The same adapter with the values of `plain` for what it does not state itself."""
        return replace(self, **{name: getattr(plain, name) for name in SHARED if name not in self.stated})

    def with_places(self, change: Callable[[str, str], str]) -> AdapterConfig:
        """The same adapter with `change(setting, place)` applied to every place in it."""
        changed: dict[str, Any] = {}
        for name in PLACES:
            value = getattr(self, name)
            if isinstance(value, tuple):
                changed[name] = tuple(change(SETTINGS[name], one) for one in value)
            elif value is not None and (name == "source" or name in self.stated):
                changed[name] = change(SETTINGS[name], value)
        return replace(self, **changed)


SETTINGS: dict[str, str] = {
    one.name: one.metadata["setting"] for one in dataclasses.fields(AdapterConfig) if one.metadata
}
LOCATION = ("source", "subfolder", "file")  # stated together, before the keys
KEYS = tuple(name for name in SETTINGS if name not in LOCATION)
PLACES = ("source", "image", "negative_image", "mask", "embeds", "encoder")
OWN = (
    *LOCATION,
    "image",
    "weight",
    "negative_image",
    "mask",
    "embeds",
)  # never taken from the plain settings beside `--adapter`
SHARED = tuple(name for name in SETTINGS if name not in OWN)
