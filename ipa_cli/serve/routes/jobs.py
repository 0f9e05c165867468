"""Our own API: a job is sent, followed, fetched, cancelled."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from ipa_cli.config.privacy import public_name
from ipa_cli.errors import UsageError
from ipa_cli.pipeline.per_picture import own_settings
from ipa_cli.serve import answers
from ipa_cli.serve.body import Body, asked
from ipa_cli.serve.command_line import command_line
from ipa_cli.serve.jobs import DONE, ENDED, Job, State
from ipa_cli.serve.limits import Refused
from ipa_cli.serve.service import Service, outcome

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
HEARTBEAT = 5.0  # seconds between two events at most, so that a client sees whether the server is still there


@router.post("", status_code=202)
async def create(http: Request, body: Body) -> Response:
    """Send a job; 202 with its id. `events` of it follow it to its pictures."""
    service = _service(http)
    job = await service.submit(asked(body), client_of(http))
    if await http.is_disconnected():  # and nobody knows the job's id
        service.cancel(job)
    return answers.ok(described(service, job), 202)


@router.get("/{id}")
async def show(http: Request, id: str) -> Response:
    """What a job is at."""
    service = _service(http)
    return answers.ok(described(service, _job(service, id)))


@router.get("/{id}/events")
async def events(http: Request, id: str) -> Response:
    """The job each time it changes, and every few seconds, as server-sent events, until it has ended."""
    service = _service(http)
    job = _job(service, id)

    async def stream() -> AsyncIterator[str]:
        async for state in job.changes(HEARTBEAT):
            yield f"event: {state.status}\ndata: {json.dumps(described(service, job, state))}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.get("/{id}/pictures/{number}")
async def picture(http: Request, id: str, number: int) -> Response:
    """A picture of a job that is done, as its file. An error, if that is how the job has ended."""
    job = _job(_service(http), id)
    if job.state.error is not None:
        outcome(job)
    if job.state.status != DONE or not 0 <= number < len(job.state.pictures):
        raise Refused(f"the job has no picture {number}", "wait until it is done", 404)
    found = job.state.pictures[number]
    job.fetched.add(number)
    return Response(found.data, media_type=found.media_type, headers={"ETag": f'"{found.sha256}"'})


@router.delete("/{id}")
async def cancel(http: Request, id: str) -> Response:
    """End a job that waits, or that is drawn, after its step."""
    service = _service(http)
    job = _job(service, id)
    service.cancel(job)
    return answers.ok(described(service, job))


@router.delete("")
async def cancel_all(http: Request) -> Response:
    """End all jobs of the client that the header X-Client-Id names; the answer has their ids."""
    service, client = _service(http), http.headers.get("x-client-id")
    if not client:
        raise UsageError("nothing says whose jobs are to end", "send the header X-Client-Id")
    own = [job for job in service.ledger if job.client == client and job.state.status not in ENDED]
    for job in own:
        service.cancel(job)
    return answers.ok({"cancelled": [job.id for job in own]})


def client_of(http: Request) -> str:
    """Whom the queue is fair to: a name that the client gives itself, else its address."""
    return http.headers.get("x-client-id") or (http.client.host if http.client else "")


def described(service: Service, job: Job, state: State | None = None) -> dict[str, Any]:
    """A job as JSON has it."""
    state = state or job.state
    return {
        "id": job.id,
        "status": state.status,
        "position": service.queue.position(job),
        "doing": state.doing,
        "step": state.step,
        "steps": state.steps,
        "notes": list(state.notes),
        "warnings": list(state.warnings),
        "pictures": [
            {
                "url": f"/v1/jobs/{job.id}/pictures/{number}",
                **{name: value for name, value in vars(one).items() if name != "data"},
                "command": command_line(
                    own_settings(job.settings, job.request.of_picture(number).image_prompts), one.seed
                ),
            }
            for number, one in enumerate(state.pictures)
        ],
        "timings": dict(state.timings),
        "graph": dict(state.graph),
        "memory": dict(state.memory),
        "device": state.device,
        "request": {
            "prompt": job.request.prompt,
            "scale": job.request.scale,
            "steps": job.request.steps,
            "steps_taken": job.request.steps_taken,
            "step_cache": str(job.request.step_cache),
            "steps_saved": job.request.steps_saved,
            "digests": job.digests,
            "references": [{"source": public_name(one.source), "sha256": one.sha256} for one in job.request.sources],
        },
        "error": None if state.error is None else answers.error_of(state.error),
    }


def _service(http: Request) -> Service:
    return http.app.state.service


def _job(service: Service, id: str) -> Job:
    job = service.ledger.get(id)
    if job is None:
        raise Refused(f"there is no job {id[:40]}", "it may have been forgotten", 404)
    return job
