"""A job made ready to be drawn, and which of these go together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from ipa_cli.batch.jobs import Job
from ipa_cli.config import Settings
from ipa_cli.engine.together import alike
from ipa_cli.models.plan import Plan
from ipa_cli.pipeline.task import Request


@dataclass(frozen=True)
class Prepared:
    """A job that can be drawn, or the error that says why it cannot."""

    job: Job
    model: Hashable = None
    plan: Plan | None = None
    settings: Settings | None = None
    request: Request | None = None
    error: Exception | None = None


def fit(one: Prepared, other: Prepared) -> bool:
    """Whether two jobs can share the calls of the UNet."""
    return (
        one.model == other.model
        and one.request is not None
        and other.request is not None
        and alike(one.request, other.request)
    )


def requests(several: Iterable[Prepared]) -> list[Request]:
    return [one.request for one in several if one.request is not None]


def distinct(several: Sequence[Prepared]) -> Sequence[Prepared]:
    """The jobs of a batch, whose last may be repeated."""
    return several[: len({id(one) for one in several})]


def filled(jobs: Sequence[Prepared], size: int) -> list[Prepared]:
    """A whole batch of so many jobs, the last repeated."""
    return [*jobs, *[jobs[-1]] * (size - len(jobs))]
