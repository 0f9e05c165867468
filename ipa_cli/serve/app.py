"""The application: routes, guards, and one shape for all errors."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from ipa_cli import __version__
from ipa_cli.errors import IpaError
from ipa_cli.serve import answers
from ipa_cli.serve.guard import Guard, UploadLimit
from ipa_cli.serve.routes import a1111, health, jobs, openai, page, pictures

if TYPE_CHECKING:
    from starlette.requests import Request as HTTPRequest
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ipa_cli.serve.metrics import Metrics
    from ipa_cli.serve.service import Service


def make_app(service: Service, host: str, token: str | None = None, origins: Collection[str] = ()) -> FastAPI:
    """The application of a service that listens on `host`."""
    app = FastAPI(
        title="ipa",
        version=__version__,
        summary="Pictures by SDXL and an IP-Adapter.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        middleware=[
            Middleware(Counted, metrics=service.metrics),
            Middleware(UploadLimit, limit=service.limits.upload, seconds=service.limits.upload_s),
            # Before the guard: what a browser asks first has no token. Without origins nothing is allowed.
            Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"]),
            Middleware(Guard, refuse=answers.foreseen, token=token, host=host, origins=origins, public=page.PATHS),
        ],
        exception_handlers={
            IpaError: _foreseen,
            RequestValidationError: _invalid,
            HTTPException: _http,
            Exception: _bug,
        },
    )
    app.state.service = service
    for module in (health, jobs, openai, a1111, pictures, page):
        app.include_router(module.router)
    return app


async def _foreseen(http: HTTPRequest, failure: Any) -> Response:
    return answers.foreseen(failure)


async def _invalid(http: HTTPRequest, failure: Any) -> Response:
    first = failure.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    said, hint = f"{where or 'the body'}: {first['msg']}", "/openapi.json has all fields"
    if first["type"] == "json_invalid":
        said, hint = f"the body is not JSON: {first['ctx']['error']} at character {where}", '{"prompt": "a star"}'
    elif isinstance(failure.body, bytes) and failure.body:  # FastAPI reads as JSON only what is declared as such
        said, hint = "the body is not declared as JSON", "send the header Content-Type: application/json"
    return answers.error("UsageError", said, hint, 422)


async def _http(http: HTTPRequest, failure: Any) -> Response:
    answer = answers.error("HTTPError", str(failure.detail), "", failure.status_code)
    answer.headers.update(failure.headers or {})
    return answer


async def _bug(http: HTTPRequest, failure: Exception) -> Response:
    return answers.bug()


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Counted:
    """Counts answers by method and by the template of their route; what a client makes up makes no new series."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._metrics.answers.labels(method, route, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counted)
