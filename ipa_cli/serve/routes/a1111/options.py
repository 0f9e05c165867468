"""Options: a server has those that it was started with, and a request may say how its picture is encoded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fastapi import APIRouter, Request, Response

from ipa_cli.config.checks import short
from ipa_cli.config.privacy import public_name
from ipa_cli.errors import UsageError
from ipa_cli.images.encode import QUALITY
from ipa_cli.serve.answers import Answer
from ipa_cli.serve.limits import Refused
from ipa_cli.serve.service import Service

router = APIRouter(prefix="/sdapi/v1")

# Options that would change the picture, and the values that do not.
CHANGING: dict[str, tuple[Any, ...]] = {
    "CLIP_stop_at_last_layers": (None, 0, 1),
    "sd_vae": (None, "", "Automatic", "None"),
    "sd_hypernetwork": (None, "", "None"),
    "sd_lora": (None, "", "None"),
    "eta_noise_seed_delta": (None, 0),
    "token_merging_ratio": (None, 0),
    "s_churn": (None, 0),
    "s_min_uncond": (None, 0),
    "tiling": (None, False),
    "face_restoration": (None, False),
}
# Of saving on the server, of its interface, and of what is done after each request.
IDLE = re.compile(
    r"(save|samples|grid|outdir|directories|live_previews?|show_progress|return_grid|do_not|enable_pnginfo).*"
)


@dataclass(frozen=True)
class Overridden:
    """How a picture is encoded, and what of the options has no effect."""

    format: str
    quality: int | None
    warnings: tuple[str, ...]


@router.get("/options")
async def show(http: Request) -> Response:
    """The options that clients look at."""
    service: Service = http.app.state.service
    return Answer(
        {
            "sd_model_checkpoint": model_name(service),
            "sd_checkpoint_hash": "",
            "sd_vae": "Automatic",
            "CLIP_stop_at_last_layers": 1,
            "samples_format": "png",
            "jpeg_quality": QUALITY,
            "eta_noise_seed_delta": 0,
            "live_previews_enable": False,
            "show_progress_every_n_steps": -1,
        }
    )


@router.post("/options")
async def change(http: Request, body: dict[str, Any]) -> Response:
    """Nothing changes for those who come next: accepts what is so already, and refuses what would change pictures."""
    found = overridden(body, http.app.state.service)
    encoding = [name for name in ("samples_format", "jpeg_quality") if name in body]
    idle = [f"{name} has no effect here: send it in override_settings" for name in encoding]
    return Answer({"warnings": [*found.warnings, *idle]})


def overridden(options: Mapping[str, Any], service: Service) -> Overridden:
    """What `override_settings` ask for. Raises UsageError for what would change the picture, Refused for a model."""
    for name, neutral in CHANGING.items():
        if options.get(name) not in neutral:
            raise UsageError(f"the option {name} is not offered here", "leave it out of override_settings")
    checkpoint = options.get("sd_model_checkpoint")
    if checkpoint is not None:
        check_model(str(checkpoint), service)
    format, quality = str(options.get("samples_format") or "png"), options.get("jpeg_quality")
    if quality is not None and (isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100):
        raise UsageError(f"jpeg_quality {short(quality)}: expected a whole number from 1 to 100", "90 is usual")
    handled = (*CHANGING, "sd_model_checkpoint", "samples_format", "jpeg_quality")
    unknown = [name for name in options if name not in handled and not IDLE.fullmatch(name)]
    warnings = (f"unknown options have no effect: {short(', '.join(unknown))}",) if unknown else ()
    return Overridden(format, None if format.lower() == "png" else quality, warnings)


def model_name(service: Service) -> str:
    """The name of the model that is loaded."""
    return public_name(service.plan.name)


def check_model(name: str, service: Service) -> None:
    """Raise Refused for a model that is not the one that is loaded, by its name with or without ending and hash."""
    here = model_name(service)
    plain = re.sub(r"( \[\w+\])?$", "", name.strip())
    if not {plain, _stem(plain)} & {here, _stem(here)}:
        raise Refused(f"there is no model '{short(name)}'", f"this server has {here}", 404, "model_not_found")


def _stem(name: str) -> str:
    return PurePosixPath(re.sub(r"\.(safetensors|ckpt)$", "", name)).name
