"""How long a body may take: a slow line is waited for, a client that sends a byte now and then is not."""

from __future__ import annotations

import asyncio
import math

import pytest
from starlette.exceptions import HTTPException

from ipa_cli.serve import guard
from ipa_cli.serve.guard import UploadLimit

BODY = {"type": "http", "headers": [(b"transfer-encoding", b"chunked")]}
NONE = {"type": "http", "headers": [(b"content-length", b"0")]}


def read(scope: dict[str, object], part: bytes, parts: float, pause: float) -> int:
    """How many bytes an app gets that reads a body of so many parts, with a pause in seconds before each."""
    sent = got = 0

    async def receive() -> dict[str, object]:
        nonlocal sent
        await asyncio.sleep(pause)
        sent += 1
        return {"type": "http.request", "body": part, "more_body": sent < parts}

    async def app(scope: object, receive: object, send: object) -> None:
        nonlocal got
        more = True
        while more:
            message = await receive()  # type: ignore[operator]
            got += len(message["body"])
            more = message["more_body"]

    asyncio.run(UploadLimit(app, 1 << 20, seconds=0.5)(scope, receive, None))  # type: ignore[arg-type]
    return got


def test_a_body_that_keeps_coming_may_take_longer_than_one_that_hardly_does(monkeypatch):
    monkeypatch.setattr(guard, "SLOWEST", 1000)
    assert read(BODY, b"x" * 1000, parts=8, pause=0.1) == 8000
    with pytest.raises(HTTPException, match="did not arrive within") as refused:
        read(BODY, b"x", parts=math.inf, pause=0.01)
    assert refused.value.status_code == 408 and refused.value.headers == {"Connection": "close"}


def test_nothing_is_timed_where_there_is_no_body():
    assert read(NONE, b"", parts=1, pause=0.6) == 0
