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
    """Limits of a request, and of all that wait; `upload` is bytes of a body."""

    queue: int = 64
    pixels: int = 2048 * 2048
    steps: int = 150
    pictures: int = 16
    upload: int = 64 * MEBI


class Refused(IpaError):
    """A request that the server does not take; `status` is the HTTP status of the answer, `code` is OpenAI's word."""

    def __init__(self, message: str, hint: str = "", status: int = 422, code: str | None = None):
        super().__init__(message, hint)
        self.status, self.code = status, code


def check(request: Request, limits: Limits) -> None:
    """Raise UsageError for a request above the limits."""
    pixels = request.width * request.height
    for count, most, what, flag in (
        (pixels, limits.pixels, "pixels a picture", "--max-pixels"),
        (request.steps, limits.steps, "steps", "--max-steps"),
        (max(len(request.seeds), request.batch_size), limits.pictures, "pictures", "--max-pictures"),
    ):
        if count > most:
            raise UsageError(f"{count} {what}: this server draws at most {most}", f"ask for less; {flag} sets it")
