"""What a client's own request is at, and its end before time. Nobody sees or ends what others asked for."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from ipa_cli.serve.answers import Answer
from ipa_cli.serve.jobs import ENDED, RUNNING, Job
from ipa_cli.serve.routes.jobs import client_of
from ipa_cli.serve.service import Service

router = APIRouter(prefix="/sdapi/v1")


@router.get("/progress")
async def progress(http: Request) -> Response:
    """How far the request of this client is that is drawn, else the first of those that wait."""
    job = _current(http)
    done, left = 0.0, 0.0
    if job is not None and job.state.status == RUNNING:
        done = min(max(0.01, job.state.step / max(1, job.state.steps)), 1.0)  # 0 means that nothing is done
        spent = time.time() - (job.state.started or job.created)
        left = spent / done - spent
    return Answer(
        {"progress": done, "eta_relative": left, "state": _state(job), "current_image": None, "textinfo": None}
    )


@router.post("/interrupt")
async def interrupt(http: Request) -> Response:
    """End the request of this client that is drawn, after its step: it has no pictures then."""
    service: Service = http.app.state.service
    job = _current(http)
    if job is not None:
        service.cancel(job)
    return Answer({})


@router.post("/skip")
async def skip(http: Request) -> Response:
    """The same: pictures of one request are not ended one by one."""
    return await interrupt(http)


def _current(http: Request) -> Job | None:
    service: Service = http.app.state.service
    mine = [job for job in service.ledger if job.client == client_of(http) and job.state.status not in ENDED]
    return next((job for job in mine if job.state.status == RUNNING), mine[0] if mine else None)


def _state(job: Job | None) -> dict[str, object]:
    """A1111's state: a job is a batch there, of which a request has several."""
    steps = 0 if job is None else job.request.steps_taken
    count = 0 if job is None else len(job.request.batches)
    number, step = (0, 0) if job is None else divmod(min(job.state.step, steps * count), max(1, steps))
    return {
        "skipped": False,
        "interrupted": job is not None and job.cancelled,
        "stopping_generation": False,
        "job": "" if job is None else "txt2img",
        "job_count": count,
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(job.created)) if job is not None else "0",
        "job_no": number,
        "sampling_step": step,
        "sampling_steps": steps,
    }
