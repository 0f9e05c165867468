"""Settings of several prompts, each of which is a request of its own."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ipa_cli.config import Settings, checks
from ipa_cli.errors import UsageError

SEEDS = 2**32
MOST_PICTURES = 10_000


def spread(
    settings: Settings, prompts: Sequence[Mapping[str, Any]] = (), of_each_seed: int = 1
) -> tuple[Settings, ...]:
    """The settings of a request for each of `prompts`, settings in place of the others; without any, of just one.

    Each draws all its pictures from the first seed on, so that they can be compared, `of_each_seed` so many. All have
    the same batch size, so that one graph serves them. Raises UsageError for too many pictures, and as `seeds`.
    """
    if settings.seed is None:
        settings = replace(settings, seed=random_seed())
    each = [replace(settings, **values) for values in prompts] or [settings]
    pictures = of_each_seed * sum(one.num_images for one in each)
    if pictures > MOST_PICTURES:
        raise UsageError(f"that makes {pictures} pictures; at most {MOST_PICTURES} are drawn at once", "split the list")
    for one in each:
        seeds(one)
    size = min(settings.batch_size, of_each_seed * max(one.num_images for one in each))
    return tuple(replace(one, batch_size=size) for one in each)


def seeds(settings: Settings) -> tuple[int, ...]:
    """The seed of each picture. Raises UsageError where the last is none, and the picture could not be drawn again."""
    first = random_seed() if settings.seed is None else settings.seed
    last = first + settings.num_images - 1
    if checks.seed(last) is not None:
        raise UsageError(f"the last of {settings.num_images} pictures would have the seed {last}", "a smaller --seed")
    return tuple(range(first, last + 1))


def random_seed() -> int:
    """A seed for who gives none."""
    return secrets.randbelow(SEEDS)
