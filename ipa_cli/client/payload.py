"""What a command asks for, as the body of a request: settings, and files by the names that pictures record."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ipa_cli.config import FIELDS, AdapterConfig, ControlConfig, Settings, controls
from ipa_cli.config.adapters import KEYS
from ipa_cli.config.dropping import NO_IMAGE
from ipa_cli.config.presets import preset_values
from ipa_cli.config.privacy import public_name
from ipa_cli.config.regions import RegionConfig
from ipa_cli.config.requests import FOLDERS, ONE_PICTURE, PICTURES, PLAIN_SETTINGS
from ipa_cli.config.values import as_json
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.images import reference
from ipa_cli.pipeline.image_embeds import MAX_BYTES
from ipa_cli.system import inputs

if TYPE_CHECKING:
    from ipa_cli.engine.generated import Form
    from ipa_cli.result import Reporter

ENVELOPE = 1 << 16  # bytes of a body beside its files, prompts and names


@dataclass
class Files:
    """Files that are sent along, in base64 by the names that pictures record, and what each name stands for."""

    data: dict[str, str] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=dict)

    def picture(self, typed: str, reporter: Reporter) -> str:
        """Add the pictures that a name means, and return the name that is recorded."""
        name = public_name(typed)
        members = []
        for member in reference.expand(typed, reporter.note):
            source, data = reference.read(member)
            members.append(self._add(public_name(source), data))
        self._same(name, self.members.setdefault(name, members) == members)
        return name

    def embeds(self, typed: str) -> str:
        """Add a file of image embeddings, and return the name that is recorded."""
        return self._add(public_name(typed), inputs.read(typed, MAX_BYTES, "a file of embeddings"))

    def meant(self, names: Sequence[str]) -> list[str]:
        """The pictures that names stand for, in their order."""
        return [member for name in names for member in self.members.get(name, [name])]

    def _add(self, name: str, data: bytes) -> str:
        text = base64.b64encode(data).decode()
        self._same(name, self.data.setdefault(name, text) == text)
        return name

    def _same(self, name: str, same: bool) -> None:
        if not same:
            raise UsageError(
                f"two references are {name} once secrets are left out of their addresses",
                "download them, name the files",
            )


@dataclass(frozen=True)
class Carried:
    """The references, masks and embeddings of a command, as a body names them, and their files."""

    named: Mapping[str, Any]
    files: Files

    @property
    def references(self) -> list[str]:
        """The names of the reference pictures, or of the file of embeddings, of the first adapter."""
        first = (self.named.get("adapter") or [self.named])[0]
        images = [] if first.get("image") == list(NO_IMAGE) else first.get("image") or ()
        return self.files.meant(images) or [name for name in (first.get("embeds"),) if name]


def read(settings: Settings, reporter: Reporter) -> Carried:
    """Read all files that the settings name, each once. Raises IpaError for one that cannot be read."""
    files = Files()
    named: dict[str, Any] = {}
    each = [name for one in settings.adapters for name in (*one.image, *one.mask, one.embeds, one.negative_image)]
    inputs.check_stdin(
        [
            *each,
            *(one.image for one in settings.control),
            *(one.mask for one in settings.region),
            *(getattr(settings, name) for name in ONE_PICTURE if name != "negative_image"),
        ]
    )
    for name in ONE_PICTURE:
        if (one := getattr(settings, name)) is not None:
            named[name] = files.picture(one, reporter)
    for name in PICTURES:
        if typed := getattr(settings, name):
            named[name] = list(typed) if typed == NO_IMAGE else [files.picture(one, reporter) for one in typed]
    if settings.embeds is not None:
        named["embeds"] = files.embeds(settings.embeds)
    if settings.region:
        named["region"] = [_region(one, files, reporter) for one in settings.region]
    if settings.adapter:
        named["adapter"] = [_mapping(one, files, reporter) for one in settings.adapter]
    if settings.control:
        named["control"] = [_control(one, files, reporter) for one in settings.control]
    return Carried(named, files)


def _control(control: ControlConfig, files: Files, reporter: Reporter) -> dict[str, Any]:
    """What one `--control` says of a request."""
    if control.image is None:
        raise UsageError(f"the ControlNet {control.place} has no map to follow", f"name one: {controls.EXAMPLE}")
    stated = {key: getattr(control, key) for key in controls.KEYS if getattr(control, key) is not None}
    return {**stated, "model": control.name, "image": files.picture(control.image, reporter)}


def _region(region: RegionConfig, files: Files, reporter: Reporter) -> dict[str, Any]:
    """What one `--region` says."""
    return {**region.values(), "mask": files.picture(region.mask, reporter)}


def _mapping(adapter: AdapterConfig, files: Files, reporter: Reporter) -> dict[str, Any]:
    """What one `--adapter` states of each request."""
    stated = {key: getattr(adapter, key) for key in KEYS if key in adapter.stated and key != "encoder"}
    for key, value in stated.items():
        if key in PICTURES:
            stated[key] = [files.picture(one, reporter) for one in value]
        elif key in ONE_PICTURE:
            stated[key] = files.picture(value, reporter)
        elif key == "embeds":
            stated[key] = files.embeds(value)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in stated.items()}


def bodies(each: Sequence[tuple[Settings, Carried]], form: Form, most: int) -> Iterator[tuple[range, dict[str, Any]]]:
    """The numbers of some pictures, among all, and the body that asks for them: whole batches, at most `most`.

    `each` are the settings of all requests, as `spread` gives them, and what they carry; `form` has the format.
    """
    at = 0
    for settings, carried in each:
        size = settings.batch_size
        step = max(size, most // size * size)
        for first in range(0, settings.num_images, step):
            count = min(step, settings.num_images - first)
            assert settings.seed is not None
            own = replace(settings, seed=settings.seed + first, num_images=count)
            yield range(at, at + count), _body(own, carried, form)
            at += count


def _body(settings: Settings, carried: Carried, form: Form) -> dict[str, Any]:
    plain = {
        name: as_json(getattr(settings, name))
        for name in PLAIN_SETTINGS
        if getattr(settings, name) != FIELDS[name].default or name in preset_values(settings.preset)
    }
    quality = {} if form.quality is None else {"quality": form.quality}
    return {
        "defaults": "ipa",
        "folders": [name for name in FOLDERS if getattr(settings, name) is not None],
        "format": str(form.format).lower(),
        "inherited": sorted(settings.inherited),
        **quality,
        **plain,
        **carried.named,
        "files": carried.files.data,
        "members": carried.files.members,
    }


def check_size(carried: Carried, limit: int) -> None:
    """Raise IpaError for files that together are more than a server takes."""
    size = sum(map(len, carried.files.data.values())) + ENVELOPE
    if size > limit:
        raise IpaError(
            f"the references make a request of {size / 1e6:.0f} MB, the server takes {limit / 1e6:.0f}",
            "make them smaller, or start the server with a larger --max-upload",
        )
