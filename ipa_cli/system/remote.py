"""Folders that fsspec reaches by a URL, such as s3://bucket/folder: opened, and what their errors mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ipa_cli.errors import IpaError
from ipa_cli.system import web_answers

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
    return files, root.rstrip("/")


def _options(kind: str) -> dict[str, Any]:
    """Short timeouts and few retries, so that the library's own error arrives before a caller stops waiting."""
    if "::" in kind:  # the options of several file systems
        return {}
    kept: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if kind == "s3":
        return kept | {"config_kwargs": {"connect_timeout": 3, "read_timeout": 20, "retries": {"max_attempts": 2}}}
    if kind in READ_ONLY:
        import aiohttp

        limits = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=20), **web_answers.limited()}
        return kept | {"client_kwargs": limits}
    return kept


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
