"""Steps that cost less, as `--step-cache` takes them: "deep:3", "forecast:2"."""

from __future__ import annotations

from dataclasses import dataclass

from ipa_cli.config.checks import parsed_by
from ipa_cli.config.setting import PICTURE, setting

NONE, DEEP, FORECAST = "none", "deep", "forecast"
MOST = 20


@dataclass(frozen=True)
class StepCache:
    """What a `method` saves, one step in `every` computes."""

    method: str = NONE
    every: int = 1

    def uses(self, method: str) -> bool:
        """Whether some steps save something by this method."""
        return self.method == method and self.every > 1

    def __str__(self) -> str:
        return NONE if self.every == 1 else f"{self.method}:{self.every}"


def parse(text: str) -> StepCache:
    """The step cache that "deep:3" or "none" names. Raises ValueError, which says what is wrong."""
    if text == NONE:
        return StepCache()
    method, _, number = text.partition(":")
    if method not in (DEEP, FORECAST) or not (number.isascii() and number.isdigit()) or not 1 <= int(number) <= MOST:
        raise ValueError(f"expected none, deep:N or forecast:N with N from 1 to {MOST}, such as forecast:2")
    return StepCache(method, int(number))


check = parsed_by(parse)


STEP_CACHE: str = setting(
    PICTURE,
    "call the UNet in every N-th step only (forecast:N), or its deep part (deep:N): faster, and the picture changes",
    NONE,
    check,
    metavar="METHOD:N",
    words=(NONE, "deep:2", "deep:3", "forecast:2", "forecast:3"),
)
