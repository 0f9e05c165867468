"""What a picture records of how it was drawn, by ipa or another program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipa_cli.config.dropping import NO_IMAGE
from ipa_cli.engine.record import CAME_OUT, asked_settings
from ipa_cli.errors import IpaError
from ipa_cli.images import comfyui, infotext, invokeai, metadata
from ipa_cli.models import schedulers
from ipa_cli.models.prompts.syntax import A1111, COMFYUI, LITERAL

MOST_LEFT_OUT = 20  # named one by one; a ComfyUI graph may have thousands
# Known keys that are not settings.
RECORDS = (
    *("schema_version", "scheduler", "schedule", "eta", "graph", "adapters", "loras", "embeddings", "init"),
    *("hires_pass", "regions", "controls", "settings"),
)


@dataclass(frozen=True)
class Recorded:
    """What a picture records of how it was drawn.

    `values` are settings by name, as JSON; `left_out` is what was not understood; `references` are the source (None:
    the model's own) and SHA-256 of each reference picture.
    """

    path: Path
    values: Mapping[str, Any]
    left_out: tuple[str, ...]
    references: tuple[tuple[str | None, str | None], ...] = ()
    loras: tuple[tuple[str, str], ...] = ()  # name and SHA-256 of each
    embeddings: Mapping[str, str] = field(default_factory=dict)  # digests by the word in the prompt


def read(path: Path, data: bytes | None = None) -> Recorded:
    """The settings in a picture of ipa or another program; `data` is the file, where it is in memory.

    Raises IpaError if none can be read.
    """
    texts = metadata.texts(path, data)
    if "ipa" in texts:
        return _ours(path, metadata.own_settings(path, texts["ipa"]))
    return _foreign(path, texts)


def _ours(path: Path, chunk: Mapping[str, Any]) -> Recorded:
    asked = {} if chunk.get("settings") is None else chunk["settings"]
    if not isinstance(asked, dict):
        raise IpaError(f"{path}: its `ipa` chunk is damaged: settings", "use another copy of the picture")
    known = asked_settings()
    values = {name: asked[name] for name in known if name in asked}
    values |= {name: chunk[name] for name in CAME_OUT if name in chunk}
    left_out = [name for name in asked if name not in known]
    left_out += [name for name in chunk if name not in (*CAME_OUT, *RECORDS)]

    adapters, init = chunk.get("adapters") or [], chunk.get("init")
    used = [_reference(path, image) for adapter in adapters for image in _list(path, adapter.get("images"))]
    if values.get("image") != list(NO_IMAGE):
        values["image"] = [source for source, _ in used if source is not None]
    if asked.get("adapter"):
        del values["image"]  # its adapters have their own images and scales
    elif adapters:
        values["scale"] = adapters[0].get("scale")
    if "scheduler" not in asked:
        drawn, unknown = schedulers.of_program(chunk.get("scheduler"), None)
        values, left_out = {**values, **drawn}, [*left_out, *unknown]
    values.setdefault("prompt_syntax", LITERAL)  # pictures from before there was another
    values["num_images"] = 1
    others = [
        *(_list(path, init.get("images")) if isinstance(init, dict) else ()),
        *(one.get("mask") for one in _dicts(path, chunk.get("regions"))),
        *(adapter["negative_image"] for adapter in adapters if adapter.get("negative_image")),
        *(one.get("image") for one in _dicts(path, chunk.get("controls"))),
    ]
    used += [_reference(path, image) for image in others]
    loras = _digests(path, chunk.get("loras"), "name")
    words = dict(_digests(path, chunk.get("embeddings"), "word"))
    return Recorded(path, values, tuple(left_out), tuple(used), loras, words)


def _list(path: Path, value: Any) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise IpaError(f"{path}: its `ipa` chunk is damaged: images", "use another copy of the picture")
    return value or []


def _dicts(path: Path, value: Any) -> list[dict[str, Any]]:
    return [one for one in _list(path, value) if isinstance(one, dict)]


def _digests(path: Path, value: Any, name: str) -> tuple[tuple[str, str], ...]:
    """The field `name` and the digest of each file, as far as they are there."""
    found = ((one.get(name), one.get("sha256")) for one in _dicts(path, value))
    return tuple((name, digest) for name, digest in found if isinstance(name, str) and isinstance(digest, str))


def _reference(path: Path, image: Any) -> tuple[str | None, str | None]:
    if isinstance(image, dict):
        source, digest = image.get("source"), image.get("sha256")
        if isinstance(source, str | None) and isinstance(digest, str | None):
            return source, digest
    raise IpaError(f"{path}: its `ipa` chunk is damaged: images", "use another copy of the picture")


def _a1111(text: str) -> tuple[dict[str, Any], list[str]]:
    """The settings in A1111's text, and what is left out."""
    if text.lstrip().startswith("{"):
        raise ValueError("it is not from A1111's web UI")  # Fooocus writes JSON of its own
    parsed = infotext.parse_parameters(text)
    values, unread = infotext.settings_of(parsed), infotext.unread(parsed)
    left_out = [f"{label} {value}".strip() for label, value in unread.items()]
    left_out += schedulers.of_program(parsed.get("Sampler"), parsed.get("Schedule type"))[1]
    model = values.get("model")
    if model is not None and not unread.get("Version", "").startswith("ipa "):
        del values["model"]  # another program's name for a file of its own
        left_out.insert(0, f"model {model} (name one with --model)")
    return values, left_out


# Name of a picture's text -> its reader, and the syntax of its prompts; the first one present is used.
_READERS = {
    "invokeai_metadata": (invokeai.read, LITERAL),  # compel's syntax, which none here is
    "parameters": (_a1111, A1111),
    "prompt": (comfyui.read, COMFYUI),
}


def _foreign(path: Path, texts: Mapping[str, str]) -> Recorded:
    name = next(name for name in _READERS if texts.get(name, "").strip())
    read, syntax = _READERS[name]
    try:
        values, left_out = read(texts[name])
    except ValueError as error:
        raise IpaError(
            f"{path}: its text `{name}` is not understood: {error}", "say what to draw with flags"
        ) from error
    said = [" ".join(text.split())[:120] for text in left_out[:MOST_LEFT_OUT]]
    more = len(left_out) - len(said)
    values = {"prompt_syntax": syntax, **values, "num_images": 1}
    return Recorded(path, values, (*said, f"{more} more") if more else tuple(said))
