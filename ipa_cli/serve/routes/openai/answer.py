"""Answers as the package `openai` reads them; what it has no field for is in `ipa`."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from ipa_cli.serve import answers
from ipa_cli.serve.jobs import ENDED, Job, Picture
from ipa_cli.serve.routes.jobs import HEARTBEAT
from ipa_cli.serve.service import Service, outcome

if TYPE_CHECKING:
    from starlette.requests import Request as HTTPRequest

# Nothing is counted in tokens here; clients that add them up find numbers.
NO_TOKENS = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "total_tokens": 0,
}


def pictures(http: HTTPRequest, job: Job, by_address: bool, warnings: Sequence[str]) -> dict[str, Any]:
    """A job that is done: its pictures in base64, or their addresses on this server."""
    state = job.state
    data = [
        {"url": f"{http.base_url}v1/jobs/{job.id}/pictures/{number}"} if by_address else {"b64_json": _base64(one)}
        for number, one in enumerate(state.pictures)
    ]
    return {
        "created": int(time.time()),
        "data": data,
        **_format(job, state.pictures[0]),
        "usage": NO_TOKENS,
        "ipa": {
            "seeds": [one.seed for one in state.pictures],
            "sha256": [one.sha256 for one in state.pictures],
            **_said(job, warnings),
        },
    }


async def events(service: Service, job: Job, kind: str, warnings: Sequence[str]) -> AsyncIterator[str]:
    """A job as server-sent events: a comment for each step, then an event for each picture, or for what went wrong.

    Cancels the job when nobody listens any more.
    """
    try:
        async for state in job.changes(HEARTBEAT):
            if state.status not in ENDED:
                yield f": {state.status}, step {state.step} of {state.steps}\n\n"
        try:
            done = outcome(job)
        except Exception as failure:
            yield _event(
                "error", {"type": "error", "error": {**answers.error_of(failure), "param": None, "code": None}}
            )
            return
        for picture in done.pictures:
            completed = {
                "b64_json": _base64(picture),
                "created_at": int(time.time()),
                **_format(job, picture),
                "quality": "auto",
                "usage": NO_TOKENS,
                "ipa": {"seed": picture.seed, "sha256": picture.sha256, **_said(job, warnings)},
            }
            yield _event(f"{kind}.completed", completed)
        service.ledger.forget(job)
    finally:
        if job.state.status not in ENDED:
            service.cancel(job)


def _said(job: Job, warnings: Sequence[str]) -> dict[str, Any]:
    state = job.state
    return {
        "warnings": [*warnings, *state.warnings],
        "notes": list(state.notes),
        "timings": dict(state.timings),
    }


def _format(job: Job, picture: Picture) -> dict[str, str]:
    return {
        "background": "opaque",
        "output_format": job.format.lower(),
        "size": f"{picture.width}x{picture.height}",
    }


def _base64(picture: Picture) -> str:
    return base64.b64encode(picture.data).decode()


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n"
