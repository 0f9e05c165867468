"""Whether the server lives, whether it takes requests, and its figures."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ipa_cli import __version__
from ipa_cli.config.comparison import reported
from ipa_cli.config.privacy import public_name
from ipa_cli.config.requests import PLAIN_SETTINGS
from ipa_cli.engine.record import adapter_name
from ipa_cli.models.plan import has_reference
from ipa_cli.serve import answers
from ipa_cli.serve.limits import Refused
from ipa_cli.serve.service import Service

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Response:
    """Whether the process answers."""
    return answers.ok({"version": __version__})


@router.get("/readyz")
async def readyz(http: Request) -> Response:
    """Whether every engine is loaded and requests are taken; 503 otherwise."""
    service: Service = http.app.state.service
    _check_ready(service)
    return answers.ok(about(service))


@router.get("/v1/server")
async def server(http: Request) -> Response:
    """The same, with the settings of the model and the machine that it was started with; 503 while it loads."""
    service: Service = http.app.state.service
    _check_ready(service)
    return answers.ok({**about(service), "settings": reported(service.settings)})


@router.get("/metrics")
async def metrics(http: Request) -> Response:
    """Figures in Prometheus' text format."""
    service: Service = http.app.state.service
    service.metrics.waiting.set(len(service.queue))
    service.metrics.drawing.set(sum(len(worker.jobs) for worker in service.workers))
    for worker in service.workers:
        used, device = worker.engine.memory(), str(worker.engine.device)
        service.metrics.memory.labels(device).set(used["peak_gib"] * 2**30)
        if "reserved_gib" in used:
            service.metrics.reserved.labels(device).set(used["reserved_gib"] * 2**30)
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _check_ready(service: Service) -> None:
    if not service.ready:
        doing = "shutting down" if service.draining else "loading"
        raise Refused(f"the server is {doing}", "try again in a moment", 503)


def about(service: Service) -> dict[str, Any]:
    """The model, its adapters, what a request gets that does not say, the limits, and what each engine is at."""
    settings, plan = service.settings, service.plan
    return {
        "version": __version__,
        "model": public_name(plan.name),
        "adapter": adapter_name(plan),
        "adapters": len(plan.adapters),
        "reference": bool(plan.adapters) and any(has_reference(one, plan.defaults) for one in settings.adapters),
        "defaults": {
            name: plan.defaults.get(name) if value is None else value
            for name, value in ((name, getattr(settings, name)) for name in PLAIN_SETTINGS)
        },
        "limits": vars(service.limits),
        "queue": len(service.queue),
        "engines": [
            {
                "device": str(worker.engine.device),
                "dtype": str(worker.engine.dtype).removeprefix("torch."),
                "doing": worker.engine.state.doing,
                "drawn": worker.engine.state.drawn,
                "graphs": [dict(graph) for graph in worker.engine.state.graphs],
            }
            for worker in service.workers
        ],
    }
