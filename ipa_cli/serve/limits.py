"""What a request may ask of the server at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipa_cli.errors import IpaError, UsageError

if TYPE_CHECKING:
    from ipa_cli.pipeline.task import Request

MEBI = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of a request, and of all that wait; `upload` is bytes of a body, timed as `guard.UploadLimit` has it."""

    queue: int = 64
    pixels: int = 2048 * 2048
    steps: int = 150
    pictures: int = 16
    upload: int = 64 * MEBI
    upload_s: float = 600


class Refused(IpaError):
    """A request that the server does not take; `status` is the HTTP status of the answer, `code` is OpenAI's word."""

    def __init__(self, message: str, hint: str = "", status: int = 422, code: str | None = None):
        super().__init__(message, hint)
        self.status, self.code = status, code


def check(request: Request, limits: Limits) -> None:
    """Raise UsageError for a request above the limits."""
    check_size(request.width, request.height, limits)
    for count, most, what, flag in (
        (request.steps, limits.steps, "steps", "--max-steps"),
        (max(len(request.seeds), request.batch_size), limits.pictures, "pictures", "--max-pictures"),
    ):
        _check(count, most, what, flag)


def check_size(width: int, height: int, limits: Limits) -> None:
    """Raise UsageError for a picture that is too large."""
    _check(width * height, limits.pixels, "pixels a picture", "--max-pixels")


def _check(count: int, most: int, what: str, flag: str) -> None:
    if count > most:
        raise UsageError(f"{count} {what}: this server draws at most {most}", f"ask for less; {flag} sets it")
