"""Addresses in messages and records, without what may be secret in them."""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=://)[^/\s]*@")
_AFTER_PATH = re.compile(
    r"""(://[^\s"'<>?#]*)([?#][^\s"'<>]*)?"""
)  # matched as a whole, so that matching takes linear time
_ENDS = ":,;.)]}"  # of a sentence rather than of an address


def without_secrets(said: str) -> str:
    """A text in which all addresses lack user, password, query and fragment."""
    return _AFTER_PATH.sub(_without_query, _USER.sub("", said))


def _without_query(address: re.Match[str]) -> str:
    path, query = address[1], address[2] or ""
    return path + query[len(query.rstrip(_ENDS)) :]
