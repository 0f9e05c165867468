"""What one `--region` says: a prompt, and the mask of where it is followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ipa_cli.config import checks, option_text
from ipa_cli.config.setting import PICTURE, PLACE, setting
from ipa_cli.errors import IpaError, UsageError, suggest

KEYS = ("mask", "prompt", "weight", "negative")
EXAMPLE = "--region 'mask=left.png,prompt=a red star'"
MOST = 8
WEIGHT = checks.between(0, 10)


@dataclass(frozen=True)
class RegionConfig:
    """A region as it is asked for: `mask` is a picture, white where the prompt is followed.

    `weight` is its share against the prompt of the picture, and where regions overlap against theirs; `negative` is
    None where the picture's own is followed.
    """

    mask: str
    prompt: str
    weight: float = 1.0
    negative: str | None = None

    def __str__(self) -> str:
        """The text of `--region`, which `parse` reads back."""
        parts = [f"mask={self.mask}", f"prompt={self.prompt}"]
        if self.weight != 1:
            parts.append(f"weight={option_text.shown(float(self.weight))}")
        return ",".join([*parts, *([] if self.negative is None else [f"negative={self.negative}"])])

    def values(self) -> dict[str, Any]:
        """Its keys as JSON has them, which `of_values` reads."""
        negative = {} if self.negative is None else {"negative": self.negative}
        return {"mask": self.mask, "prompt": self.prompt, "weight": self.weight, **negative}

    def with_places(self, change: Callable[[str, str], str]) -> RegionConfig:
        """The same region with `change("region", place)` in place of its mask."""
        return replace(self, mask=change("region", self.mask))


def parse(text: str, where: str, error: type[IpaError] = UsageError) -> RegionConfig:
    """The region that `text` specifies. Raises `error`, which names `where` the text came from."""
    first, pairs = option_text.split(text, KEYS, where, error)
    if first:
        raise error(f"{where} begins with '{checks.short(first)}', which is no mask= and no prompt=", EXAMPLE)
    for key in KEYS:
        if sum(key == one for one, _ in pairs) > 1:
            raise error(f"{where} has {key} twice", f"give it once: {EXAMPLE}")
    return of_values(dict(pairs), where, error)


def of_values(values: Mapping[str, Any], where: str, error: type[IpaError] = UsageError) -> RegionConfig:
    """The region of these keys, as text or as JSON has them. Raises `error`."""
    for key, value in values.items():
        if key not in KEYS:
            raise error(f"{where}: unknown key '{checks.short(key)}'{suggest(key, KEYS)}", f"known: {', '.join(KEYS)}")
        if not isinstance(value, str) and not (key == "weight" and type(value) in (int, float)):
            raise error(f"{where}: {key} is no text", EXAMPLE)
    given = {key: str(value) for key, value in values.items()}
    for key in ("mask", "prompt"):
        if not given.get(key, "").strip():
            raise error(f"{where} has no {key}", EXAMPLE)
    weight = option_text.number(given.get("weight", "1"), f"{where}: weight", error)
    if problem := WEIGHT(weight) or (None if weight else "expected more than 0"):
        raise error(f"{where}: weight {weight:g}: {problem}", EXAMPLE)
    for key in ("mask", "prompt", "negative"):
        problem = checks.prompt(given.get(key, ""))
        if problem:
            raise error(f"{where}: {key}: {problem}", EXAMPLE)
    return RegionConfig(given["mask"], given["prompt"], weight, given.get("negative"))


def check(regions: tuple[RegionConfig, ...]) -> str | None:
    """What is wrong with several regions, or None."""
    return f"expected at most {MOST} regions" if len(regions) > MOST else None


REGION = setting(
    PICTURE,
    "a prompt for a part of the picture: mask=left.png,prompt=a red star[,weight=1][,negative=blur]; repeatable",
    (),
    check,
    kind=PLACE,
    metavar="SPEC",
)
