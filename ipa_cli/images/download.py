"""Download pictures: only http and https, with limits on size, time and redirects."""

from __future__ import annotations

import socket
import ssl
import string
import time
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ipa_cli import __version__
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.system.inputs import within

if TYPE_CHECKING:
    import httpx2

URL_BYTES = 32 << 20
URL_SECONDS = 30.0  # in total: names, redirects, headers and content
REDIRECTS = 5
_EXAMPLE = "--image https://host/cat.png"
_LOCAL = "download it and name the file"


def web_address(url: str) -> str:
    """`url` normalized and quoted. Raises UsageError unless it is http or https, to a host, without a password."""
    try:
        parts = urllib.parse.urlsplit(url.strip())
        host, port = parts.hostname, parts.port
        name = (host or "").encode("idna").decode()  # no empty label and none of more than 63 letters
    except ValueError as error:
        raise UsageError(f"{url} is not a web address: {error}", _EXAMPLE) from error
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"{url}: only http and https addresses are read", "name a file, or an https address")
    if parts.username is not None:
        raise UsageError("a web address must not contain a user name", "download the picture and name the file")
    if not name.strip("."):
        raise UsageError(f"{url} has no host", _EXAMPLE)
    netloc = (f"[{name}]" if ":" in name else name) + (f":{port}" if port is not None else "")
    address = parts._replace(netloc=netloc, fragment="").geturl()
    return urllib.parse.quote(address, safe=string.punctuation, errors="replace")


def fetch(url: str) -> bytes:
    """The content of a `web_address`. Raises IpaError when it is too large, too slow, or cannot be fetched."""
    import httpx2

    try:
        # Sockets limit one read, not the whole, and looking up a name not at all.
        return within(URL_SECONDS, lambda: _download(url, time.monotonic() + URL_SECONDS))
    except (TimeoutError, httpx2.TimeoutException) as error:
        raise IpaError(f"{url} took longer than {URL_SECONDS:g} s", _LOCAL) from error
    except httpx2.ConnectError as error:
        causes = list(_causes(error))
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            raise IpaError(f"{url}: the host cannot be found", "check the address and the network") from error
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            raise IpaError(f"{url}: the secure connection failed: {error}", _LOCAL) from error
        raise IpaError(f"{url} cannot be reached: {error}", "check the address and the network") from error
    except httpx2.InvalidURL as error:
        raise IpaError(f"{url} is not a web address: {error}", _EXAMPLE) from error
    except httpx2.HTTPError as error:
        raise IpaError(f"{url}: the connection broke: {error}", "try again") from error


def _download(url: str, deadline: float) -> bytes:
    import httpx2

    headers = {"User-Agent": f"ipa/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"}
    address = url
    with httpx2.Client(headers=headers, timeout=URL_SECONDS) as client:
        for _ in range(REDIRECTS + 1):
            with client.stream("GET", address) as response:
                if not response.has_redirect_location:
                    return _content(url, response, deadline)
                try:
                    address = web_address(urllib.parse.urljoin(address, response.headers["Location"]))
                except (UsageError, ValueError) as error:
                    message = f"{url} redirects to a forbidden address: {error}"
                    raise IpaError(message, _LOCAL) from error
    raise IpaError(f"{url} has too many redirects", _LOCAL)


def _content(url: str, response: httpx2.Response, deadline: float) -> bytes:
    too_large = IpaError(f"{url} is larger than {URL_BYTES >> 20} MiB", "make it smaller, or name a local file")
    if not response.is_success:
        status = f"{response.status_code} {response.reason_phrase}"
        raise IpaError(f"{url}: the server answered {status}", "check the address")
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) > URL_BYTES:
        raise too_large
    data = bytearray()
    for chunk in response.iter_bytes(1 << 16):
        data += chunk
        if len(data) > URL_BYTES:
            raise too_large
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(data)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
