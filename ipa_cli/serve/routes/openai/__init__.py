"""OpenAI's API for pictures, with references that the adapter follows."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from ipa_cli.config.checks import short
from ipa_cli.config.privacy import public_name
from ipa_cli.errors import UsageError
from ipa_cli.serve.answers import Answer
from ipa_cli.serve.asked import NAME_LENGTH, Asked
from ipa_cli.serve.body import validated
from ipa_cli.serve.limits import Refused
from ipa_cli.serve.routes.jobs import client_of
from ipa_cli.serve.routes.openai import answer, form
from ipa_cli.serve.routes.openai.body import Generation, asked, warnings
from ipa_cli.serve.service import Service

router = APIRouter(prefix="/v1", tags=["openai"])

# Many tools let people choose the address of a server but not the model: a name of OpenAI's is no choice, and means the
# one model that is here. Any other name was chosen by somebody, so that another picture would be a wrong answer.
OPENAIS = re.compile(r"(dall-e|(chat)?gpt-image)-.*")
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "prompt"],
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "mask": {"type": "string", "format": "binary"},
                        "prompt": {"type": "string"},
                        "ipa": {"type": "string", "description": "settings as JSON"},
                    },
                }
            }
        },
    }
}


@router.get("/models")
async def models(http: Request) -> Response:
    """The model of this server."""
    return Answer({"object": "list", "data": [_model(http.app.state.service)]})


@router.get("/models/{id:path}")
async def model(http: Request, id: str) -> Response:
    """The model of this server, if that is its name."""
    service: Service = http.app.state.service
    if id != _name(service):
        raise _no_model(service, id)
    return Answer(_model(service))


@router.post("/images/generations")
async def generations(http: Request, body: Generation) -> Response:
    """Draw pictures."""
    return await _draw(http, body, asked(body), "image_generation", [])


@router.post("/images/edits", openapi_extra=FORM)
async def edits(http: Request) -> Response:
    """Draw pictures after the references of a form."""
    service: Service = http.app.state.service
    sent = await form.read(http, service.limits.upload)
    if not sent.images:
        raise UsageError("there is no image", "send one or more as image or image[]")
    said = []
    for name in sent.masks:
        sent.files[name] = await run_in_threadpool(form.reference_mask, sent.files[name], name)
        said = ["the mask says where the reference acts; the picture is drawn anew everywhere"]
    body = validated(Generation, sent.values)
    own = body.ipa.model_dump() if body.ipa is not None else {}
    values = form.where(sent, len(service.settings.adapter), own)
    return await _draw(http, body, asked(body, sent.files, values), "image_edit", said)


async def _draw(http: Request, body: Generation, wanted: Asked, kind: str, said: list[str]) -> Response:
    service: Service = http.app.state.service
    said = [*_about_model(service, body.model), *said, *warnings(body)]
    user = body.safety_identifier or body.user
    client = client_of(http) if user is None or "x-client-id" in http.headers else f"user {user[:NAME_LENGTH]}"
    job = await service.submit(wanted, client)
    if body.stream:
        stream = answer.events(service, job, kind, said)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
    await service.wait(job, http)
    by_address = body.response_format == "url"
    if not by_address:
        service.ledger.forget(job)
    return Answer(answer.pictures(http, job, by_address, said))


def _about_model(service: Service, asked: str | None) -> list[str]:
    """A warning where another name means the model of this server. Raises Refused where it does not."""
    if asked is None or asked == (name := _name(service)):
        return []
    if OPENAIS.fullmatch(asked):
        return [f"{short(asked)} is drawn by {name}, the model of this server"]
    raise _no_model(service, asked)


def _no_model(service: Service, asked: str) -> Refused:
    return Refused(f"there is no model '{short(asked)}'", f"this server has {_name(service)}", 404, "model_not_found")


def _name(service: Service) -> str:
    return public_name(service.plan.name)


def _model(service: Service) -> dict[str, Any]:
    return {"id": _name(service), "object": "model", "created": int(service.started), "owned_by": "ipa"}
