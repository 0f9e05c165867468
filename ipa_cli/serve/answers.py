"""Answers of one shape: that of `--json`, for data and for errors."""

from __future__ import annotations

import json
from typing import Any

from fastapi.responses import JSONResponse

from ipa_cli.config.privacy import public_text
from ipa_cli.errors import IpaError
from ipa_cli.serve.limits import Refused

SCHEMA_VERSION = 1
RETRY_S = 1  # seconds after which a full queue may have room
BUG = ("InternalError", "the server failed", "its log has the traceback")


class Answer(JSONResponse):
    """JSON in ASCII, which can carry every string that came in, a lone surrogate too."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def ok(data: Any, status: int = 200) -> JSONResponse:
    """An answer with data."""
    return Answer(_envelope("ok", data, None), status)


def error(kind: str, message: str, hint: str, status: int, code: str | None = None) -> JSONResponse:
    """An answer with an error; `param` and `code` are there for OpenAI's clients."""
    headers = {"Retry-After": str(RETRY_S)} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="ipa", Basic realm="ipa"'
    said = {"type": kind, "message": public_text(message), "hint": public_text(hint), "param": None, "code": code}
    return Answer(_envelope("error", None, said), status, headers)


def foreseen(failure: IpaError) -> JSONResponse:
    """The answer to a foreseen failure: what can be wrong in a request is the client's."""
    status, code = (failure.status, failure.code) if isinstance(failure, Refused) else (422, None)
    return error(type(failure).__name__, failure.message, failure.hint, status, code)


def error_of(failure: BaseException) -> dict[str, str]:
    """What made a job fail, inside an answer that has begun, or is of a job; nothing of a bug but that it is one."""
    said = BUG
    if isinstance(failure, IpaError):
        said = (type(failure).__name__, public_text(failure.message), public_text(failure.hint))
    return dict(zip(("type", "message", "hint"), said, strict=True))


def bug() -> JSONResponse:
    """The answer to what is not foreseen; the traceback is for the server's own log."""
    return error(*BUG, 500)


def _envelope(status: str, data: Any, error: Any) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "command": "serve", "status": status, "data": data, "error": error}
