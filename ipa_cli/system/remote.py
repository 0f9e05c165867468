"""Folders that fsspec reaches by a URL, such as s3://bucket/folder: opened, and what their errors mean."""

from __future__ import annotations

import asyncio
import socket
import sys
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from ipa_cli.errors import IpaError
from ipa_cli.system import web_answers

SILENCE = 20  # seconds for which nothing may arrive, at either end
TRIES = 2  # of s3fs, each of them two of botocore
READ_ONLY = ("http", "https")
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}  # `ipa-cli[remote]` installs the others


def scheme(url: str) -> str:
    """What comes before ://, `file` for a path."""
    found, separator, _ = url.partition("://")
    return found if separator else "file"


def opened(url: str) -> tuple[Any, str]:
    """The file system of a URL or absolute path, and the folder in it, without a slash at its end.

    Nothing is asked yet, and no listing is kept. Raises IpaError where a package is missing, ValueError for a URL that
    fsspec does not know.
    """
    kind = scheme(url)
    try:
        from fsspec.core import url_to_fs

        files, root = url_to_fs(url, **_options(kind))
    except ImportError as error:
        raise IpaError(
            f"needs a package: {error}", f"`pip install '{_PACKAGES.get(kind, 'ipa-cli[remote]')}'`"
        ) from error
    if kind == "s3":
        files.retries = TRIES
    return files, root.rstrip("/")


def discard(file: Any) -> None:
    """Forget a file that is written in part: S3 keeps, and charges for, the parts of one that is just left."""
    try:
        file.discard()
    finally:
        with suppress(AttributeError):  # one in memory
            file.closed = True  # else it is completed when it is collected


def _options(kind: str) -> dict[str, Any]:
    """Short timeouts and few retries, so that the library's own error arrives before a caller stops waiting."""
    if "::" in kind:  # the options of several file systems
        return {}
    kept: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if kind == "s3":
        limits: dict[str, Any] = {"connect_timeout": 3, "read_timeout": SILENCE, "retries": {"max_attempts": 1}}
        return kept | {"config_kwargs": limits | {"connector_args": {"socket_factory": _socket}}}
    if kind in READ_ONLY:
        import aiohttp

        limit = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=SILENCE)
        return kept | {"client_kwargs": {"timeout": limit, **web_answers.limited()}}
    return kept


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket of the running event loop that ends when nothing arrives for `SILENCE`, at either end.

    aiohttp's limits are for connecting and for reading: a request on a line that dies while it is sent, or before the
    server says that it may be, would wait for good. Needs Linux.
    """
    made = socket.socket(*address[:3])
    if sys.platform == "linux":
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 64 << 10)  # or reading begins megabytes too early
        _end_when_silent(asyncio.get_running_loop(), weakref.ref(made), b"", 0.0)
    return made


def _end_when_silent(loop: Any, found: weakref.ref[socket.socket], before: bytes, since: float) -> None:
    """Shut a socket down that has moved nothing `since` a time at which it had moved what it had `before`."""
    made = found()
    if made is None or made.fileno() < 0:
        return
    now = loop.time()
    moved = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)[120:]  # bytes acknowledged, bytes received
    if moved != before:
        before, since = moved, now
    if now - since < SILENCE:
        loop.call_later(SILENCE / 4, _end_when_silent, loop, found, before, since)
        return
    with suppress(OSError):
        made.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Failure:
    """Why a location failed, in its library's words; `hint` is what helps, empty where only another try may."""

    kind: Literal["missing", "denied", "silent", "other"]
    said: str
    hint: str = ""

    @property
    def final(self) -> bool:
        """Whether another try fails the same way."""
        return self.kind in ("missing", "denied")


def failure(error: BaseException) -> Failure:
    """What an error means: each file system of fsspec raises what its client library does."""
    said = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, FileNotFoundError) or "(NoSuchBucket)" in said:
        return Failure("missing", said, "check the name of the bucket or folder")
    forbidden = getattr(error, "status", None) in (401, 403)  # of HTTP
    if forbidden or isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        hint = "check the credentials, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they allow"
        return Failure("denied", said, hint)
    return Failure("silent" if isinstance(error, TimeoutError) else "other", said)
