"""The body of a request, built from the settings that describe a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ipa_cli.config import FIELDS, checks
from ipa_cli.config.names import ALSO
from ipa_cli.config.requests import FOLDERS, PLAIN_SETTINGS
from ipa_cli.config.values import element_type, expected
from ipa_cli.models import schedulers
from ipa_cli.serve.asked import Asked, decoded, picture_format

PICTURE = "base64, with or without data:image/…;base64, before it, or a name in `files`"
SAMPLING: dict[str, Mapping[str, Any]] = {"scheduler": schedulers.SCHEDULERS, "schedule": schedulers.SCHEDULES}
LAYERS = "ip_layers"  # JSON, which a body holds as it is


def _field(name: str) -> tuple[Any, Any]:
    kind, each = expected(name)[0], element_type(name)
    typed: Any = list[each] if kind is tuple else kind  # type: ignore[valid-type]
    if name == LAYERS:
        typed = dict[str, Any] | str
    elif FIELDS[name].metadata["numeric"]:
        typed = float | str
    return typed | None, Field(None, description=FIELDS[name].metadata["help"], json_schema_extra=_allowed(name))


def _allowed(name: str) -> dict[str, Any]:
    """What the schema says of the values that a setting may have; the check itself is that of the setting."""
    check = FIELDS[name].metadata["check"]
    if name in SAMPLING:
        return {"examples": schedulers.installed(SAMPLING[name])}  # other spellings are understood too
    if isinstance(check, checks.Choice):
        return {"enum": [*check, None]}
    if isinstance(check, checks.between):
        return {"minimum": check.low, "maximum": check.high}
    if check is checks.side:
        return {"minimum": checks.MIN_SIDE, "maximum": checks.MAX_SIDE, "multipleOf": checks.SIDE_STEP}
    return {}


class _Base(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: list[str] | None = Field(None, description=f"reference images: {PICTURE}")
    mask: list[str] | None = Field(None, description=f"masks, white where the reference acts: {PICTURE}")
    init_image: str | None = Field(None, description=f"picture to begin with in place of noise: {PICTURE}")
    inpaint_mask: str | None = Field(None, description=f"mask, white where the init image is redrawn: {PICTURE}")
    negative_image: str | None = Field(None, description=f"image to keep away from: {PICTURE}")
    region: list[dict[str, Any]] | None = Field(
        None, description="prompts for parts of the picture: mask, prompt, weight and negative of each"
    )
    adapter: list[dict[str, Any]] | None = Field(None, description="a mapping for each of several loaded adapters")
    control: list[dict[str, Any]] | None = Field(
        None, description="maps of loaded ControlNets: model (a name or number), image, scale, start, end, …"
    )
    embeds: str | None = Field(None, description="name in `files` of image embeddings, in place of reference images")
    files: dict[str, str] = Field({}, description="files in base64 by a name, which the picture records")
    format: str = Field("png", description="png, jpg, webp or avif")
    members: dict[str, list[str]] = Field(
        {}, description="names in `files` that one name stands for, such as a folder's"
    )
    defaults: Literal["server", "ipa"] = Field(
        "server", description="what settings are that are not given: as the server was started, or as without flags"
    )
    folders: list[Literal["lora_dir", "embedding_dir"]] | None = Field(
        None, description="the server's folders in which names in a prompt find files: all that it has, or these alone"
    )
    inherited: list[str] = Field(
        [],
        description="settings that a file or the environment gave: no note when one has no effect",
    )
    quality: int | None = Field(None, ge=1, le=100, description="of JPEG, WebP and AVIF")


NAMES = {**{name: name for name in PLAIN_SETTINGS}, **ALSO}  # of settings, some of which have two
Body = create_model("Body", __base__=_Base, **{name: _field(setting) for name, setting in NAMES.items()})  # type: ignore[call-overload]
OWN = ("files", "members", "format", "quality", "defaults", "folders", "inherited")


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], data: Any, where: str | None = None) -> Model:
    """A part of a request, found `where`. Raises RequestValidationError, as FastAPI does for a body."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        place = () if where is None else (where,)
        raise RequestValidationError([{**one, "loc": (*place, *one["loc"])} for one in error.errors()]) from None


def asked(body: Any) -> Asked:
    """What a body asks for. Raises UsageError for what is no picture, and no format."""
    values = {name: value for name, value in body.model_dump().items() if value is not None and name not in OWN}
    files = {name: decoded(text) for name, text in body.files.items()}
    folders = FOLDERS if body.folders is None else body.folders
    form = picture_format(body.format), body.quality
    return Asked(values, files, *form, body.members, body.defaults == "ipa", folders, body.inherited)
