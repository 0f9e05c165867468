"""txt2img and img2img."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from ipa_cli.images.infotext import parse_parameters
from ipa_cli.images.metadata import texts_of
from ipa_cli.serve.answers import Answer
from ipa_cli.serve.jobs import Job
from ipa_cli.serve.routes.a1111 import options
from ipa_cli.serve.routes.a1111.body import ImageToImage, TextToImage, Understood, understood
from ipa_cli.serve.routes.jobs import client_of
from ipa_cli.serve.service import Service

router = APIRouter(prefix="/sdapi/v1")


@router.post("/txt2img")
async def txt2img(http: Request, body: TextToImage) -> Response:
    """Draw pictures."""
    return await _draw(http, body, understood(body, http.app.state.service))


@router.post("/img2img")
async def img2img(http: Request, body: ImageToImage) -> Response:
    """Draw pictures that begin with another one."""
    return await _draw(http, body, understood(body, http.app.state.service))


async def _draw(http: Request, body: TextToImage, wanted: Understood) -> Response:
    service: Service = http.app.state.service
    job = await service.submit(wanted.asked, client_of(http))
    await service.wait(job, http)
    service.ledger.forget(job)
    info = await run_in_threadpool(_info, service, job, wanted)
    images = [base64.b64encode(one.data).decode() for one in job.state.pictures] if body.send_images else []
    parameters = body.model_dump(
        include=set(TextToImage.model_fields), exclude={"alwayson_scripts", "override_settings"}
    )
    return Answer({"images": images, "parameters": parameters, "info": json.dumps(info)})


def _denoising_strength(job: Job) -> float | None:
    if job.settings.hires is not None:
        return job.settings.hires_strength
    return None if job.settings.init_image is None else job.settings.strength


def _info(service: Service, job: Job, wanted: Understood) -> dict[str, Any]:
    """What A1111 says of the pictures, and under `ipa` what has no place there."""
    request, pictures = job.request, job.state.pictures
    infotexts = [texts_of(one.data, "the picture")["parameters"] for one in pictures]
    seeds, count = [one.seed for one in pictures], len(pictures)
    return {
        "prompt": request.prompt,
        "all_prompts": [request.prompt] * count,
        "negative_prompt": request.negative_prompt,
        "all_negative_prompts": [request.negative_prompt] * count,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * count,
        "subseed_strength": 0,
        "width": request.width,
        "height": request.height,
        "sampler_name": parse_parameters(infotexts[0]).get("Sampler"),
        "cfg_scale": request.guidance_scale,
        "steps": request.steps,
        "batch_size": request.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": options.model_name(service),
        "sd_model_hash": None,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": _denoising_strength(job),
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(job.created)),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "ipa": {
            "sha256": [one.sha256 for one in pictures],
            "warnings": [*wanted.warnings, *job.state.warnings],
            "notes": list(job.state.notes),
            "timings": dict(job.state.timings),
        },
    }
