"""Answers of one shape: that of `--json`, for data and for errors."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from ipa_cli.config.privacy import public_text
from ipa_cli.errors import IpaError
from ipa_cli.serve.limits import Refused

SCHEMA_VERSION = 1
RETRY_S = 1  # seconds after which a full queue may have room


def ok(data: Any, status: int = 200) -> JSONResponse:
    """An answer with data."""
    return JSONResponse(_envelope("ok", data, None), status)


def error(kind: str, message: str, hint: str, status: int) -> JSONResponse:
    """An answer with an error; `param` and `code` are there for OpenAI's clients."""
    headers = {"Retry-After": str(RETRY_S)} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="ipa", Basic realm="ipa"'
    told = {"type": kind, "message": public_text(message), "hint": public_text(hint), "param": None, "code": None}
    return JSONResponse(_envelope("error", None, told), status, headers)


def foreseen(failure: IpaError) -> JSONResponse:
    """The answer to a foreseen failure: what can be wrong in a request is the client's."""
    status = failure.status if isinstance(failure, Refused) else 422
    return error(type(failure).__name__, failure.message, failure.hint, status)


def bug() -> JSONResponse:
    """The answer to what is not foreseen; the traceback is for the server's own log."""
    return error("InternalError", "the server failed", "its log has the traceback", 500)


def _envelope(status: str, data: Any, error: Any) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "command": "serve", "status": status, "data": data, "error": error}
