"""Pictures from the web: http and https alone, of limited size, time and redirects."""

from __future__ import annotations

import http.client
import socket
import ssl
import string
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from .. import __version__
from ..errors import IpaError, UsageError
from ..inputs import within

URL_BYTES = 32 << 20
URL_SECONDS = 30.0  # in total: names, redirects, headers and content
REDIRECTS = 5


def web_address(url: str) -> str:
    """`url` as it goes over the wire. Raises UsageError unless it is http or https, to a host, without a password."""
    try:
        parts = urllib.parse.urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{url} is not a web address: {error}", "--image https://host/cat.png") from error
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"{url}: only http and https addresses are read", "name a file, or an https address")
    if parts.username is not None:
        raise UsageError("a web address must not carry a user name", "download the picture and name the file")
    if not host:
        raise UsageError(f"{url} names no host", "--image https://host/cat.png")
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise UsageError(f"{url} is not a web address: {error}", "--image https://host/cat.png") from error
    netloc = (f"[{name}]" if ":" in name else name) + (f":{port}" if port is not None else "")
    address = parts._replace(netloc=netloc, fragment="").geturl()
    return urllib.parse.quote(address, safe=string.punctuation, errors="replace")


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = REDIRECTS
    max_repeats = REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        fp.close()  # or the caller reads a body of any length before it follows
        try:
            return urllib.request.Request(web_address(newurl), headers=req.headers)
        except UsageError as error:
            message = f"{req.full_url} redirects to an address that is not followed: {error.message}"
            raise IpaError(message, error.hint) from error

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # known to urllib since Python 3.11


def _opener() -> urllib.request.OpenerDirector:
    # Built by hand: `build_opener` would add handlers for ftp, file and data.
    opener = urllib.request.OpenerDirector()
    opener.addheaders = [("User-Agent", f"ipa/{__version__}"), ("Accept", "image/*")]
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def fetch(url: str) -> bytes:
    """What lies at a `web_address`. Raises IpaError when it is too large, too slow, or not to be had."""
    local = "download it and name the file"
    try:
        # Sockets limit one read, not the whole, and looking up a name not at all.
        return within(URL_SECONDS, lambda: _download(url, time.monotonic() + URL_SECONDS))
    except urllib.error.HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            raise IpaError(f"{url} redirects too often, or to no web address", local) from error
        raise IpaError(f"{url}: the server answered {error.code} {error.reason}", "check the address") from error
    except TimeoutError as error:
        raise IpaError(f"{url} did not arrive within {URL_SECONDS:g} s", local) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise IpaError(f"{url} did not arrive within {URL_SECONDS:g} s", local) from error
        if isinstance(error.reason, socket.gaierror):
            raise IpaError(f"{url}: the host cannot be found", "check the address and the network") from error
        if isinstance(error.reason, ssl.SSLError):
            raise IpaError(f"{url}: no secure connection: {error.reason}", local) from error
        raise IpaError(f"{url} cannot be reached: {error.reason}", "check the address and the network") from error
    except (OSError, http.client.HTTPException) as error:
        raise IpaError(f"{url}: the connection broke: {error!r}", "try again") from error


def _download(url: str, deadline: float) -> bytes:
    too_large = IpaError(f"{url} is larger than {URL_BYTES >> 20} MiB", "make it smaller, or name a local file")
    with _opener().open(url, timeout=URL_SECONDS) as response:
        announced = response.length or 0
        if announced > URL_BYTES:
            raise too_large
        data = bytearray()
        while chunk := response.read1(1 << 16):
            data += chunk
            if len(data) > URL_BYTES:
                raise too_large
            if time.monotonic() > deadline:
                raise TimeoutError
        if len(data) < announced:
            raise http.client.IncompleteRead(bytes(data), announced - len(data))
        return bytes(data)
