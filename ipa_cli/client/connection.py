"""Requests to a server, and what it answers: data, or its error as ours."""

from __future__ import annotations

import json
import math
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BytesIO
from socket import gaierror
from typing import Any
from urllib.parse import quote, urlsplit

from ipa_cli import __version__
from ipa_cli.client.answers import ERROR, Shape, fits
from ipa_cli.config.privacy import public_text
from ipa_cli.config.requests import LOOPBACK
from ipa_cli.errors import IpaError, UsageError

CONNECT_S, ANSWER_S = 10.0, 120.0  # longest waits; events come more often while a server draws
MOST_BYTES = 1 << 30  # of an answer
CLIENT = secrets.token_hex(8)  # the server's queue is fair to clients, not to addresses
USAGE = ("UsageError", "ConfigError")  # errors that are those of what was typed
HERE = "`ipa serve` starts one, and without --server ipa draws here"


class Busy(IpaError):
    """The server's queue is full; `seconds` later there may be room."""

    def __init__(self, message: str, hint: str, seconds: float):
        super().__init__(message, hint)
        self.seconds = seconds


@dataclass(frozen=True)
class Connection:
    """A server by its address, asked over a connection of its own each time.

    The standard library's client loads in a fifth of the time of others, and needs no proxy on the way to a server of
    one's own.
    """

    url: str
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raise UsageError rather than send a token that others on the network could read."""
        parts = urlsplit(self.url)
        if self.token is not None and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            tunnel = f"ssh -L {parts.port or 80}:127.0.0.1:{parts.port or 80} {parts.hostname}"
            raise UsageError(
                f"{self.url} is not encrypted: the token could be read on the way",
                f"use https, or `{tunnel}` and --server http://127.0.0.1:{parts.port or 80}",
            )

    def ask(self, method: str, path: str, body: Any = None, seconds: float = ANSWER_S, shape: Shape = object) -> Any:
        """The data of an answer, of this shape. Raises the server's error, and IpaError where it cannot be asked."""
        with self._answer(method, path, body, seconds) as answer:
            return self.checked(self._envelope(answer)["data"], shape)

    def file(self, path: str) -> bytes:
        """A file that the server has."""
        with self._answer("GET", path, None, ANSWER_S) as answer:
            if answer.status != 200:
                self._envelope(answer)
            return answer.read(MOST_BYTES)

    def events(self, path: str, shape: Shape) -> Iterator[Any]:
        """The data of server-sent events, each of this shape, as they come."""
        with self._answer("GET", path, None, ANSWER_S) as answer:
            if answer.status != 200:
                self._envelope(answer)
            while line := answer.readline(MOST_BYTES):
                if line.startswith(b"data: "):
                    yield self.checked(self._json(line[6:]), shape)

    @contextmanager
    def _answer(self, method: str, path: str, body: Any, seconds: float) -> Iterator[HTTPResponse]:
        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=min(CONNECT_S, seconds))
        headers = {"User-Agent": f"ipa/{__version__}", "X-Client-Id": CLIENT}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None
        if body is not None:
            text = json.dumps(body).encode()
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(text))}
            data = BytesIO(text)  # bytes would be sent in one call, and the limit is for each
        try:
            connection.connect()
            connection.sock.settimeout(seconds)
            target = quote(parts.path.rstrip("/") + path, safe="/%", errors="replace")
            connection.request(method, target, data, headers)
            yield connection.getresponse()
        except (OSError, HTTPException, UnicodeError) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _unreachable(self, error: Exception) -> IpaError:
        if isinstance(error, ConnectionRefusedError):
            return IpaError(f"no server answers at {self.url}", HERE)
        if isinstance(error, (gaierror, UnicodeError)):  # a name may be too long for any host
            return IpaError(f"{self.url}: the host cannot be found", "check the address and the network")
        if isinstance(error, ssl.SSLError):
            return IpaError(f"{self.url}: the secure connection failed: {error}", "check its certificate")
        if isinstance(error, TimeoutError):
            return IpaError(f"the server at {self.url} does not answer", f"look at its log; {HERE}")
        if isinstance(error, HTTPException) and not str(error):
            return IpaError(f"the connection to {self.url} broke", "look at the server's log, and try again")
        return IpaError(f"the connection to {self.url} broke: {error}", "look at the server's log, and try again")

    def _envelope(self, answer: HTTPResponse) -> dict[str, Any]:
        """The answer's JSON. Raises its error as ours."""
        data = answer.read(MOST_BYTES)
        if answer.status == 401:
            raise IpaError(
                f"the server at {self.url} asks for a token", "--server-token-file FILE names the file with it"
            )
        found = self._json(data)
        envelope: dict[str, Any] = self.checked(found, {"status": str, "data": object, "error": (None, ERROR)})
        if envelope["status"] == "ok":
            return envelope
        error = raised(self.checked(envelope["error"], ERROR))
        if answer.status == 429:
            raise Busy(error.message, error.hint, _seconds(answer.headers.get("Retry-After")))
        raise error

    def checked(self, found: Any, shape: Shape) -> Any:
        """What was found in an answer. Raises IpaError where it is not what `ipa serve` says."""
        if not fits(found, shape):
            raise self.foreign()
        return found

    def _json(self, data: bytes) -> Any:
        try:
            return json.loads(data, parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError):
            raise self.foreign() from None

    def foreign(self) -> IpaError:
        """The error of an answer that `ipa serve` does not give."""
        return IpaError(f"what answers at {self.url} is no `ipa serve`", "check the address")


def raised(error: dict[str, Any]) -> IpaError:
    """A server's error as ours."""
    kind = UsageError if error["type"] in USAGE else IpaError
    return kind(public_text(error["message"]), public_text(error["hint"]))


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _seconds(text: str | None) -> float:
    try:
        return min(60.0, max(0.1, float(text or 1)))
    except ValueError:
        return 1.0
