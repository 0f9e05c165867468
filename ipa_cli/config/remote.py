"""Settings of a graph cache that several machines share: where it is, and whether new graphs are sent there."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from ipa_cli.config.checks import unicode
from ipa_cli.config.setting import MACHINE, OWN, setting

PROTOCOLS = ("file", "s3", "gs", "az", "https", "http")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")  # also one that lacks a slash, as in s3:/bucket


def problem(url: str) -> str | None:
    """What is wrong with the address of a remote cache: one of `PROTOCOLS`, or a folder; no secret may be in it."""
    if (wrong := unicode(url)) is not None or not url.isprintable():
        return wrong or "expected an address without control characters"
    if "://" not in url:
        if url.startswith("~") and not os.path.expanduser(url).startswith("/"):  # noqa: PTH111 (Path.expanduser raises)
            return "there is no such user with a home folder"
        return None if url.startswith(("/", "~")) else "expected an address such as s3://bucket/graphs, or /a/folder"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"not an address: {error}"
    scheme = url.partition("://")[0]  # urlsplit would make it lower case
    if scheme not in PROTOCOLS:
        return f"expected one of {', '.join(f'{name}://' for name in PROTOCOLS)}, or a folder"
    if scheme == "file" and (parts.netloc or not parts.path.strip("/")):
        return "expected the whole path of a folder, as in file:///a/folder"
    if scheme != "file" and not host:
        return "the address names no host or bucket"
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return "expected an address alone; credentials come from the environment or the provider's own files"
    return None


def absolute(url: str) -> str:
    """The address of a remote cache as typed in a command, where a folder may be relative to the working directory."""
    if not url.strip() or url.startswith("~") or _ADDRESS.match(url):
        return url
    return os.path.abspath(url)  # noqa: PTH100 (Path.absolute keeps "..")


CACHE_REMOTE = setting(
    MACHINE,
    "shared cache in which a missing graph is looked for before it is compiled: s3://…, gs://…, https://… or a folder",
    None,
    problem,
    kind=OWN,
    metavar="URL",
)
CACHE_PUSH = setting(MACHINE, "send what was compiled to --cache-remote, signed", False, kind=OWN)
CACHE_SIGNING_KEY = setting(
    MACHINE, "private key that signs graphs, in place of the one of `ipa cache keygen`", kind=OWN, metavar="FILE"
)
