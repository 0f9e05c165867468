"""Which jobs are drawn together, in the same calls of the UNet."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence

from ipa_cli.batch.prepared import Prepared
from ipa_cli.engine.together import alike
from ipa_cli.pipeline.task import Request


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


class Batches:
    """Jobs that share the calls of the UNet, `size` at a time, or one.

    Fewer are drawn one by one, but for those that fit the batch before them: its last job is then repeated, so that one
    graph serves.
    """

    def __init__(self, size: int):
        self._size = size
        self._whole: Prepared | None = None  # a job of the last whole batch, whose graph is there

    def of(self, every: Iterable[Prepared]) -> Generator[list[Prepared], None, None]:
        """The batches of these jobs, in their order; one that failed already is alone."""
        taken: list[Prepared] = []
        for prepared in every:
            if prepared.error is not None:
                yield [prepared]
                continue
            if taken and not fit(taken[0], prepared):
                yield from self._rest(taken)
                taken = []
            taken.append(prepared)
            if len(taken) == self._size:
                yield taken
                self._whole, taken = taken[0], []
        yield from self._rest(taken)

    def _rest(self, taken: Sequence[Prepared]) -> Iterator[list[Prepared]]:
        if taken and self._whole is not None and fit(taken[0], self._whole):
            yield filled(taken, self._size)
        else:
            yield from ([one] for one in taken)
