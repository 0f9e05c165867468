"""What a setting's value may be: each check returns what is wrong with a value, or None."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ipa_cli.config.addresses import without_secrets
from ipa_cli.errors import suggest

MIN_SIDE, MAX_SIDE, SIDE_STEP = 64, 8192, 8
MAX_PROMPT = 100_000  # characters

# What other programs call a value, to suggest ours.
ALIASES = {"fp16": ("float16", "half"), "bf16": ("bfloat16", "half"), "fp32": ("float32",), "float8": ("fp8",)}

Check = Callable[[Any], "str | None"]


def parsed_by(parse: Callable[[str], Any]) -> Check:
    """A check that `parse` takes a text; the ValueError that it raises says what is wrong."""

    def check(text: str) -> str | None:
        try:
            parse(text)
        except ValueError as error:
            return str(error)
        return None

    return check


class Choice(tuple[str, ...]):
    """A check that the value is one of these."""

    def __call__(self, value: str) -> str | None:
        if value in self:
            return None
        other = next((one for one in ALIASES.get(value.lower(), ()) if one in self), value)
        return f"expected one of {', '.join(self)}{suggest(other, self)}"


@dataclass(frozen=True)
class between:
    """A check that a number lies in a range, its ends included."""

    low: float
    high: float

    def __call__(self, value: float) -> str | None:
        if self.low <= value <= self.high:  # NaN fails
            return None
        return f"expected a number from {self.low} to {self.high}"


def seed(value: int) -> str | None:
    """A check of a seed: -1 is no random one, as it is in A1111 and ComfyUI."""
    problem = between(0, 2**63 - 1)(value)
    return f"{problem}; without a seed it is random" if problem and value == -1 else problem


def side(value: int) -> str | None:
    """A check of a picture's width or height in pixels."""
    if not MIN_SIDE <= value <= MAX_SIDE:
        return f"expected pixels from {MIN_SIDE} to {MAX_SIDE}"
    if value % SIDE_STEP:
        lower = max(MIN_SIDE, value // SIDE_STEP * SIDE_STEP)
        return f"expected a multiple of {SIDE_STEP}, for example {lower} or {lower + SIDE_STEP}"
    return None


def gpus(value: int) -> str | None:
    """A check of the number of GPUs: guidance has two halves, and nothing else of a picture is divided."""
    return None if value in (1, 2) else "expected 1 or 2, since guidance has two halves"


def unicode(value: str) -> str | None:
    """A check for text: arguments and variables may hold any bytes, but only file names can."""
    return None if value.isascii() or value.encode(errors="ignore").decode() == value else "expected text in UTF-8"


def prompt(value: str) -> str | None:
    """A check of a prompt's length: pictures carry their prompt, and programs that read them limit text."""
    too_long = len(value) > MAX_PROMPT
    return f"expected at most {MAX_PROMPT} characters, not {len(value)}" if too_long else unicode(value)


def on_disk(output: str) -> str | None:
    """What is wrong with the name of a file or folder that is an address, and would become a folder named `s3:`."""
    address = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", output)
    return "an address is for `ipa batch` alone; others write on disk" if address else None


def folder(value: Any) -> str | None:
    """A check of a folder that is made: an address would become one named `s3:`, in a file's folder too."""
    address = re.search(r"(^|/)(s3|gs|gcs|az|abfs|hf|https?|file):/", str(value))
    return "an address is no folder here; --cache-remote takes one" if address else None


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
    """A value for a message, in one line of at most 80 characters; an address without user, password and query."""
    try:
        text = str(value)
    except (ValueError, RecursionError):  # numbers of thousands of digits, deeply nested tables
        return "(too long to show)"
    text = without_secrets(" ".join(text.split()))
    return text if len(text) <= 80 else text[:80] + "…"


def with_point(text: str) -> str | None:
    """A number that is written with a decimal comma, with a point; None for another text."""
    return text.strip().replace(",", ".") if re.fullmatch(r"\s*[+-]?\d*,\d+\s*", text) else None


def number_hint(text: str, otherwise: str) -> str:
    """What to type for a text that is no number."""
    number = with_point(text)
    return otherwise if number is None else f"write it with a point: {number}"


def quoted(value: Any) -> str:
    """The same for a value from a file: text in quotes."""
    return f"'{short(value)}'" if isinstance(value, str) else short(value)
