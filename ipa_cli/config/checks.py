"""What a setting's value may be: each check returns what is wrong with a value, or None."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from ipa_cli.errors import suggest

MAX_SIDE = 8192
MAX_PROMPT = 100_000  # characters

Check = Callable[[Any], "str | None"]


class Choice(tuple[str, ...]):
    """A check that the value is one of these."""

    def __call__(self, value: str) -> str | None:
        return None if value in self else f"expected one of {', '.join(self)}{suggest(value, self)}"


def between(low: float, high: float) -> Check:
    """A check that a number lies in a range, its ends included."""

    def check(value: float) -> str | None:
        return None if low <= value <= high else f"expected a number from {low} to {high}"  # NaN fails too

    return check


def side(value: int) -> str | None:
    """A check of a picture's width or height in pixels."""
    if not 64 <= value <= MAX_SIDE:
        return f"expected pixels from 64 to {MAX_SIDE}"
    if value % 8:
        lower = max(64, value // 8 * 8)
        return f"expected a multiple of 8, for example {lower} or {lower + 8}"
    return None


def unicode(value: str) -> str | None:
    """A check for text: arguments and variables may hold any bytes, but only file names can."""
    return None if value.isascii() or value.encode(errors="ignore").decode() == value else "expected text in UTF-8"


def prompt(value: str) -> str | None:
    """A check of a prompt's length: pictures carry their prompt, and programs that read them limit text."""
    too_long = len(value) > MAX_PROMPT
    return f"expected at most {MAX_PROMPT} characters, not {len(value)}" if too_long else unicode(value)


def inside(value: str) -> str | None:
    """A check that a name stays inside its repository."""
    outside = value.startswith("/") or ".." in value.split("/")
    return "expected a name inside the repository" if outside else unicode(value)


def server(value: str) -> str | None:
    """A check of what draws: auto, none, or the address of a server, without a secret in it."""
    if value in ("auto", "none"):
        return None
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"not an address: {error}"
    if parts.scheme not in ("http", "https") or not host or not value.isascii() or any(map(str.isspace, value)):
        return "expected auto, none or an address such as http://127.0.0.1:8188"
    if parts.username is not None or parts.query or parts.fragment:
        return "expected an address alone; the token is in the file that server_token_file names"
    return None


def each(check: Check) -> Check:
    """A check of every element of a list."""

    def check_all(values: tuple[Any, ...]) -> str | None:
        return next((problem for value in values if (problem := check(value))), None)

    return check_all


def short(value: Any) -> str:
    """A value for a message, in one line of at most 80 characters."""
    try:
        text = str(value)
    except (ValueError, RecursionError):  # numbers of thousands of digits, deeply nested tables
        return "(too long to show)"
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:80] + "…"


def quoted(value: Any) -> str:
    """The same for a value from a file: text in quotes."""
    return f"'{short(value)}'" if isinstance(value, str) else short(value)
