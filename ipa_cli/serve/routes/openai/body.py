"""The body of OpenAI's requests for pictures, as the package `openai` 3.57 sends it, and what it asks for here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ipa_cli.config.checks import short
from ipa_cli.config.units import parse_picture_size
from ipa_cli.errors import UsageError
from ipa_cli.serve import body
from ipa_cli.serve.asked import Asked, picture_format
from ipa_cli.serve.body import Body

# Fields that adjust OpenAI's own models: value by value those that ask for nothing.
WITHOUT_EFFECT = {
    "quality": (None, "auto"),
    "style": (None,),
    "complexity": (None,),
    "input_fidelity": (None,),
    "moderation": (None, "auto", "low"),
}
NOT_OFFERED = ("frame_count", "frame_duration_ms", "svg", "markup")  # they ask for another kind of picture
NONE: Mapping[str, Any] = {}


class Generation(BaseModel):
    """A request for pictures; `ipa` has the settings that OpenAI has no field for."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    prompt: str = Field(description="what to draw")
    model: str | None = Field(None, description="the server's model, or a name of OpenAI's, which means the same")
    n: int | None = Field(None, ge=1, description="number of pictures")
    size: str | None = Field(None, description="WIDTHxHEIGHT in pixels; auto is the model's")
    response_format: Literal["b64_json", "url"] | None = None
    output_format: str | None = Field(None, description="png, jpeg, webp or avif")
    output_compression: int | None = Field(None, ge=0, le=100, description="quality of JPEG, WebP and AVIF")
    background: Literal["auto", "opaque", "transparent"] | None = None
    stream: bool | None = Field(None, description="the pictures as server-sent events")
    partial_images: int | None = Field(None, ge=0, le=3, description="none are sent")
    user: str | None = Field(None, description="whom the queue is fair to")
    safety_identifier: str | None = Field(None, description="the same, by its newer name")
    ipa: Body | None = Field(None, description="settings by the names that /v1/jobs takes")  # type: ignore[valid-type]


def asked(wanted: Generation, files: Mapping[str, bytes] = NONE, values: Mapping[str, Any] = NONE) -> Asked:
    """What a request asks for; `files` and `values` came beside it. Raises UsageError for what is not offered here."""
    unknown = wanted.model_extra or {}
    for name in NOT_OFFERED:
        if unknown.get(name) is not None:
            raise UsageError(f"{name} is not offered here", "leave it out")
    for name in unknown:
        if name in Body.model_fields and name not in WITHOUT_EFFECT:
            raise UsageError(f"{name} is no field of OpenAI's", f'send it inside of "ipa": {{"{name}": …}}')
    if wanted.background == "transparent":
        raise UsageError("pictures are drawn without a transparent background", "leave background out")
    own = wanted.ipa or Body()
    given = body.asked(own)
    theirs = {"prompt": wanted.prompt, "num_images": wanted.n, **_size(wanted.size), **values}
    theirs = {name: value for name, value in theirs.items() if value is not None}
    if twice := next((name for name in theirs if name in given.values), None):
        raise UsageError(f"{twice} is given twice, inside of ipa and beside it", "leave one out")
    if own.model_fields_set & {"format", "quality"}:
        raise UsageError("ipa has a format or quality", "send output_format and output_compression")
    quality = None if wanted.output_compression is None else max(1, wanted.output_compression)
    return replace(
        given,
        values={**given.values, **theirs},
        files={**given.files, **files},
        format=picture_format(wanted.output_format or "png"),
        quality=quality,
    )


def warnings(wanted: Generation) -> list[str]:
    """What a request says that has no effect."""
    unknown = wanted.model_extra or {}
    idle = [name for name, neutral in WITHOUT_EFFECT.items() if unknown.get(name) not in neutral]
    hints = {"quality": ": ipa.steps sets the number of steps"}
    said = [f"{name} has no effect here{hints.get(name, '')}" for name in idle]
    if wanted.partial_images:
        said.append("no partial images are sent, the picture alone")
    others = [name for name in unknown if name not in WITHOUT_EFFECT and name not in NOT_OFFERED]
    if others:
        said.append(f"unknown fields have no effect: {short(', '.join(others))}")
    return said


def _size(size: str | None) -> dict[str, int]:
    if size in (None, "auto"):
        return {}
    width, height = parse_picture_size(size)
    return {"width": width, "height": height}
