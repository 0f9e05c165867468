"""What clients ask for when they start: what there is to choose from, which is often nothing."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from ipa_cli.config.controls import PREPROCESSORS
from ipa_cli.images.infotext import parse_parameters
from ipa_cli.images.metadata import texts_of
from ipa_cli.serve.answers import Answer
from ipa_cli.serve.asked import decoded
from ipa_cli.serve.routes.a1111 import sampling, units
from ipa_cli.serve.routes.a1111.options import model_name
from ipa_cli.serve.service import Service

router = APIRouter()
router.include_router(sampling.router)

EMPTY = (
    *("sd-vae", "hypernetworks", "face-restorers", "realesrgan-models", "latent-upscale-modes", "prompt-styles"),
    *("script-info", "extensions"),
)


class Sent(BaseModel):
    """A picture whose settings are asked for."""

    image: str


@router.get("/sdapi/v1/sd-models")
async def sd_models(http: Request) -> Response:
    """The model that is loaded."""
    name = model_name(http.app.state.service)
    plain = PurePosixPath(name).name
    return Answer(
        [{"title": name, "model_name": plain, "hash": None, "sha256": None, "filename": name, "config": None}]
    )


@router.post("/sdapi/v1/refresh-checkpoints")
async def refresh_checkpoints() -> Response:
    """Nothing: a server has one model."""
    return Answer(None)


@router.get("/sdapi/v1/upscalers")
async def upscalers() -> Response:
    """None, by its name."""
    return Answer([{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 4}])


@router.get("/sdapi/v1/embeddings")
async def embeddings() -> Response:
    """None."""
    return Answer({"loaded": {}, "skipped": {}})


@router.get("/sdapi/v1/loras")
async def loras(http: Request) -> Response:
    """The LoRAs that every picture is drawn with."""
    service: Service = http.app.state.service
    names = [PurePosixPath(one.file or one.source).stem for one in service.settings.lora]
    return Answer([{"name": name, "alias": name, "path": name, "metadata": {}} for name in names])


@router.get("/sdapi/v1/scripts")
async def scripts(http: Request) -> Response:
    """ControlNet's, where there is an adapter to follow its units; `webuiapi` knows it by the second name.

    Without that name it sends the units of a request again with the next one.
    """
    there = ["controlnet", "controlnet m2m"] if _models(http) else []
    return Answer({"txt2img": there, "img2img": there})


@router.get("/sdapi/v1/cmd-flags")
async def cmd_flags() -> Response:
    """Those that clients look at."""
    return Answer({"api": True, "nowebui": True})


@router.get("/sdapi/v1/memory")
async def memory() -> Response:
    """Main memory, and that of the first GPU, in bytes."""
    return Answer(await run_in_threadpool(_memory))


@router.post("/sdapi/v1/png-info")
async def png_info(body: Sent) -> Response:
    """The settings in a picture, as A1111 reads them; empty where there are none."""
    return Answer(await run_in_threadpool(_png_info, body.image))


@router.get("/controlnet/version")
async def version() -> Response:
    """That of the extension's API."""
    return Answer({"version": 3})


@router.get("/controlnet/model_list")
async def model_list(http: Request) -> Response:
    """The adapters and ControlNets that are loaded."""
    return Answer({"model_list": _models(http)})


@router.get("/controlnet/module_list")
async def module_list() -> Response:
    """The modules of units that are offered."""
    names = ["none", *PREPROCESSORS, *units.MODULES]
    return Answer({"module_list": names, "module_detail": {name: {} for name in names}})


@router.get("/controlnet/control_types")
async def control_types(http: Request) -> Response:
    """IP-Adapter, and all kinds of maps for the ControlNets that are loaded."""
    names = units.adapters(http.app.state.service)
    choices: dict[str, Any] = {"module_list": list(units.MODULES), "model_list": ["None", *names]}
    defaults = {"default_option": units.MODULES[0], "default_model": names[0] if names else "None"}
    controls = units.controls(http.app.state.service)
    of_maps: dict[str, Any] = {"module_list": ["none", *PREPROCESSORS], "model_list": ["None", *controls]}
    of_maps |= {"default_option": "none", "default_model": "None"}
    types = {"All": of_maps} if controls else {}
    return Answer({"control_types": {**types, "IP-Adapter": {**choices, **defaults}}})


@router.get("/controlnet/settings")
async def settings(http: Request) -> Response:
    """How many units a client should show: one for each adapter and ControlNet."""
    return Answer({"control_net_unit_count": len(_models(http))})


def _models(http: Request) -> list[str]:
    service: Service = http.app.state.service
    return [*units.adapters(service), *units.controls(service)]


async def _nothing() -> Response:
    """Nothing of this kind is offered."""
    return Answer([])


for _name in EMPTY:
    router.add_api_route(f"/sdapi/v1/{_name}", _nothing, name=_name)


def _memory() -> dict[str, Any]:
    import psutil
    import torch

    main = psutil.virtual_memory()
    cuda: dict[str, Any] = {"error": "unavailable"}
    if torch.cuda.is_available():
        gpu_free, gpu_total = torch.cuda.mem_get_info()
        cuda = {"system": {"free": gpu_free, "used": gpu_total - gpu_free, "total": gpu_total}}
    return {"ram": {"free": main.available, "used": main.total - main.available, "total": main.total}, "cuda": cuda}


def _png_info(image: str) -> dict[str, Any]:
    found = texts_of(decoded(image), "the picture")
    text = found.get("parameters", "")
    return {"info": text, "items": found, "parameters": parse_parameters(text) if text else {}}
