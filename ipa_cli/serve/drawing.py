"""From the body of a request to what the engine draws: everything is checked here, before it waits."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ipa_cli.config import FIELDS, Settings
from ipa_cli.config.adapters import KEYS, SETTINGS
from ipa_cli.config.dropping import NO_IMAGE
from ipa_cli.config.requests import FOLDERS, ONE_PICTURE, PICTURES
from ipa_cli.config.setting import PICTURE, REFERENCE
from ipa_cli.engine import keywords
from ipa_cli.errors import UsageError
from ipa_cli.images import encode
from ipa_cli.images.filenames import FORMATS
from ipa_cli.images.reference import Reference, of_bytes
from ipa_cli.models import diffusers_schedulers, schedulers
from ipa_cli.pipeline import control, prompts, sampling, unused
from ipa_cli.pipeline.init_image import check_model, note_size, size
from ipa_cli.pipeline.references import InMemory, load_references
from ipa_cli.pipeline.task import Request, make_request
from ipa_cli.serve.limits import Limits, check, check_size

if TYPE_CHECKING:
    from ipa_cli.models.lora.lora import Lora
    from ipa_cli.models.plan import Plan
    from ipa_cli.result import Reporter

NAME_LENGTH = 4096  # characters of a file's name, which is kept with the job: as long as paths are
PIXELS = 256_000_000  # of all pictures of a request, which stay in memory until it is drawn
_DATA = re.compile(r"data:[\w.+/-]*(;[\w=.+-]+)*;base64,", re.ASCII)
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """What a request asks for, whatever API it came by.

    `values` are settings by name; those of `PICTURES` and `ONE_PICTURE` hold names, of which `files` has the bytes.
    Those that are not given are as the server was started, or with `bare` as `ipa generate` has them without any flag.
    `members` are the files that a name stands for, `folders` are those in which names in a prompt find files,
    `inherited` is as `Settings` has it.
    """

    values: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    format: str = "PNG"
    quality: int | None = None
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)
    bare: bool = False
    folders: Collection[str] = FOLDERS
    inherited: Collection[str] = ()


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
    sent = _Sent()
    names = (*asked.files, *asked.members)
    if any(len(name) > NAME_LENGTH for name in names):
        raise UsageError(f"a file's name has more than {NAME_LENGTH} characters", "send it by a shorter one")

    def named(mapping: Mapping[str, Any], single: Collection[str]) -> dict[str, Any]:
        found = dict(mapping)
        for key in PICTURES:
            if found.get(key) is not None:
                found[key] = [
                    _named(one, key in keywords.MASKS, asked, sent, allow_fetch) for one in _listed(found[key])
                ]
        for key in single:
            if found.get(key) is not None:
                found[key] = _named(found[key], key in keywords.MASKS, asked, sent, allow_fetch)
        return found

    without = _listed(asked.values.get("image")) == list(NO_IMAGE)
    given = named({**asked.values, "image": None} if without else asked.values, ONE_PICTURE)
    if given.get("region") is not None:
        given["region"] = [
            {**one, "mask": _named(one["mask"], True, asked, sent, allow_fetch)} if "mask" in one else one
            for one in given["region"]
        ]
    if given.get("adapter") is not None:
        given["adapter"] = [named(mapping, [key for key in ONE_PICTURE if key in KEYS]) for mapping in given["adapter"]]
    if given.get("control") is not None:
        given["control"] = [_with_map(mapping, asked, sent, allow_fetch) for mapping in given["control"]]
    for mapping in (given, *(given.get("adapter") or ())):
        if mapping.get("embeds") is not None and mapping["embeds"] not in list(asked.files):
            raise UsageError("image embeddings are not among the files of the request", "send them in base64")
    if given.get("image") and not plan.adapters:
        raise UsageError("no adapter is loaded that could follow a reference", "start the server with --ip-adapter")
    if without:
        given["image"] = NO_IMAGE
    given["num_images"] = given.get("num_images") or 1
    base = _bare(settings) if asked.bare else settings
    folders: dict[str, Any] = dict.fromkeys(name for name in FOLDERS if name not in asked.folders)
    wanted, _ = keywords.of_request(replace(base, **folders), given)
    wanted = replace(wanted, inherited=wanted.inherited.union(asked.inherited))
    schedulers.choose(wanted.scheduler, wanted.schedule, wanted.eta)
    in_memory = InMemory(sent.pictures, asked.files, sent.members)
    loaded = load_references(wanted, reporter, in_memory)
    if loaded.init is not None:  # it is brought to size with the request
        check_size(*size(wanted, plan, loaded.init), limits)
    request = make_request(wanted, plan, loaded, loras, reporter)
    if asked.bare:  # one of several requests, which have a batch size in common
        request = replace(request, batch_size=wanted.batch_size)
    for one in request.passes:
        diffusers_schedulers.check_steps(one.sampling, plan, one.steps)
    check_model(request.init, plan)
    if request.init is not None:
        note_size(request.init, reporter)
    control.note_size(request.controls, (request.width, request.height), reporter)
    for one in request.passes:
        check(one, limits)
    encode.check(asked.format, asked.quality, max(request.prompt, request.negative_prompt, key=len))
    unused.remark(wanted, request, reporter)
    prompts.review(request.texts, request, reporter)
    sampling.advise(wanted, plan, request.loras, reporter)
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


def _with_map(mapping: Mapping[str, Any], asked: Asked, sent: _Sent, allow_fetch: bool) -> dict[str, Any]:
    """What a request says of a ControlNet, with the name of its map, which joins the pictures that were `sent`."""
    image = mapping.get("image")
    return dict(mapping) if image is None else {**mapping, "image": _named(image, False, asked, sent, allow_fetch)}


def picture_format(name: str) -> str:
    """The format with this name or suffix, such as "png" or "jpeg", as Pillow calls it."""
    found = FORMATS.get(f".{name.lower()}")
    if found is None:
        known = ", ".join(dict.fromkeys(suffix[1:] for suffix in FORMATS))
        raise UsageError(f"there is no format '{name}'", f"known are {known}")
    return found


def decoded(text: str) -> bytes:
    """The bytes of a picture in base64, with or without `data:image/…;base64,` before it."""
    try:
        return base64.b64decode(_DATA.sub("", text, count=1), validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("a picture of the request is not base64", "send its bytes in base64") from None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True)
class _Sent:
    """The pictures of a request, and what its names stand for, as `InMemory` has them."""

    pictures: dict[tuple[str, bool], Reference] = field(default_factory=dict)
    members: dict[tuple[str, bool], Sequence[str]] = field(default_factory=dict)

    def add(self, data: bytes, name: str, as_mask: bool) -> None:
        """Decode a picture, once. Raises UsageError for more than fit into memory."""
        if (name, as_mask) in self.pictures:
            return
        self.pictures[name, as_mask] = of_bytes(data, name, as_mask)
        if sum(one.width * one.height for one in self.pictures.values()) > PIXELS:
            raise UsageError(
                f"the pictures of the request have more than {PIXELS // 1_000_000} million pixels", "make them smaller"
            )


def _named(text: Any, as_mask: bool, asked: Asked, sent: _Sent, allow_fetch: bool) -> str:
    """The name of what joins the pictures that were `sent`; nothing is read from the server's disk."""
    if not isinstance(text, str):
        raise UsageError("a picture of the request is not text", "send it in base64, or as a file")
    if text in asked.members:
        if not asked.members[text]:
            raise UsageError(f"{text} stands for no file", "name those that it stands for in members")
        for member in asked.members[text]:
            if member not in asked.files:
                raise UsageError(f"{text} stands for {member}, which is not among the files", "send it in base64")
            sent.add(asked.files[member], member, as_mask)
        sent.members[text, as_mask] = asked.members[text]
        return text
    if text in asked.files:
        data, name = asked.files[text], text
    elif _ADDRESS.match(text):
        if not allow_fetch:
            raise UsageError(
                "this server fetches no addresses", "send the picture itself, or start it with --allow-fetch"
            )
        return text
    else:
        data = decoded(text)
        name = f"{'mask' if as_mask else 'picture'} {hashlib.sha256(data).hexdigest()[:12]}"
    sent.add(data, name, as_mask)
    return name
