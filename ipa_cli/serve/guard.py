"""Who may speak to the server, and how much: holders of the token, no page of another site, no more than fits."""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import secrets
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from ipa_cli.config.requests import LOOPBACK
from ipa_cli.serve.limits import Refused

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SLOWEST = 8 << 10  # bytes of a body a second
OPEN = ("/healthz", "/readyz")  # what a load balancer asks, which has no token


class Guard:
    """Answers 401 without the token, and 403 to what a browser sends for another site.

    A page of another site can make a browser send requests to loopback, also under a name that it makes resolve there:
    so on loopback the host must be one of `LOOPBACK`, and an origin, where one is sent, must be the server's own or one
    of `origins`. `OPEN` and `public` are the paths that need no token, each in full.
    """

    def __init__(
        self,
        app: ASGIApp,
        refuse: Any,
        token: str | None,
        host: str,
        origins: Collection[str],
        public: Collection[str],
    ):
        self._app, self._refuse = app, refuse
        self._token, self._local, self._origins = token, host in LOOPBACK, frozenset(origins)
        self._open = frozenset((*OPEN, *public))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            refused = self._problem(scope["path"], headers)
            if refused is not None:
                await self._refuse(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _problem(self, path: str, headers: dict[str, str]) -> Refused | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._local and _name(host) not in LOOPBACK:
            return Refused("this server answers on loopback alone", "ask for http://127.0.0.1", 403)
        if origin is not None and origin not in self._origins and origin.partition("://")[2] != host:
            return Refused(f"pages of {origin[:100]} may not ask this server", "start it with --allow-origin", 403)
        if self._token is None or path in self._open or _is(self._token, headers.get("authorization", "")):
            return None
        return Refused("a token is needed", "send the header Authorization: Bearer TOKEN", 401)


class UploadLimit:
    """Answers 413 to a body of more bytes than `limit`, however its length is stated, and 408 to a slower one.

    A body may take so many `seconds` from when it is first asked for, and as many more as what has come of it takes
    at `SLOWEST`; the connection of a slower one is closed.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float):
        self._app, self._limit, self._seconds = app, limit, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read, whole, begun = 0, not _has_body(scope), math.inf

        async def in_time() -> Message:
            nonlocal begun
            now = asyncio.get_running_loop().time()
            begun = min(begun, now)
            message = asyncio.ensure_future(receive())
            try:
                done, _ = await asyncio.wait([message], timeout=begun + self._seconds + read / SLOWEST - now)
            finally:
                message.cancel()  # of no effect on one that is done
            if not done:
                said = f"the request did not arrive within {self._seconds:g} s; --upload-timeout sets it"
                raise HTTPException(408, said, {"Connection": "close"})
            return message.result()

        async def limited() -> Message:
            nonlocal read, whole
            message = await (receive() if whole else in_time())
            whole = not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > self._limit:
                raise HTTPException(413, f"the request has more than {self._limit} bytes; --max-upload sets it")
            return message

        await self._app(scope, limited, send)


def _has_body(scope: Scope) -> bool:
    headers = dict(scope.get("headers", ()))
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _name(host: str) -> str | None:
    """The name in a header `Host`, without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:  # half of an IPv6 address
        return None


def _is(token: str, header: str) -> bool:
    """Whether a header carries the token: as a bearer, or as the password of basic authentication, as A1111 has it."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "basic":
        try:
            _, _, value = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return secrets.compare_digest(value.strip().encode(), token.encode())
