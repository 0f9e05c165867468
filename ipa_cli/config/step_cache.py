"""Steps that cost less, as `--step-cache` takes them: "deep:3"."""

from __future__ import annotations

from ipa_cli.config.checks import parsed_by
from ipa_cli.config.setting import PICTURE, setting

NONE, MOST = "none", 20


def every(text: str) -> int:
    """The deep part of the UNet is computed in one step of so many. Raises ValueError, which says what is wrong."""
    if text == NONE:
        return 1
    method, _, number = text.partition(":")
    if method != "deep" or not (number.isascii() and number.isdigit()) or not 1 <= int(number) <= MOST:
        raise ValueError(f"expected none, or deep:N with N from 1 to {MOST}, such as deep:3")
    return int(number)


check = parsed_by(every)


STEP_CACHE: str = setting(
    PICTURE,
    "deep:N computes the deep part of the UNet in every N-th step alone: faster, and another picture",
    NONE,
    check,
    metavar="deep:N",
    words=(NONE, "deep:2", "deep:3"),
)
