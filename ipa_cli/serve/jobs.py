"""A request that was taken: its state, which any thread may read, and its pictures."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipa_cli.config import Settings
    from ipa_cli.pipeline.image_prompt import ImagePrompt
    from ipa_cli.pipeline.task import Request

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
ENDED = (DONE, FAILED, CANCELLED)


@dataclass(frozen=True)
class Picture:
    """An encoded picture."""

    data: bytes
    media_type: str
    sha256: str
    prompt: str
    seed: int
    scale: float
    width: int
    height: int
    references: tuple[str, ...] = ()  # by the names that it records


@dataclass(frozen=True)
class State:
    """A job at one time. `step` of `steps` are calls of the UNet; times are those of `time.time`."""

    status: str = QUEUED
    step: int = 0
    steps: int = 0
    doing: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    graph: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    device: str = ""
    error: BaseException | None = None
    started: float | None = None
    ended: float | None = None


class Job:
    """A request from the queue to its pictures; `client` is whom the queue is fair to; `ended` is called at its end.

    With `alone` no other job shares its calls of the UNet, which rounds otherwise in a larger batch.

    The state is replaced as a whole by the thread that works on the job; `changes` follows it from the server's event
    loop.
    """

    def __init__(
        self,
        request: Request,
        settings: Settings,
        client: str,
        loop: asyncio.AbstractEventLoop,
        format: str = "PNG",
        quality: int | None = None,
        ended: Callable[[Job], None] = lambda job: None,
        alone: bool = False,
    ):
        self.id = secrets.token_urlsafe(16)
        self.request, self.settings, self.client = request, settings, client
        self.format, self.quality = format, quality
        self._ended = ended
        self.alone, self.digests = alone, sorted(request.digests)
        self.pixels = _pixels(request)
        self.created = time.time()
        self.cancelled = False
        self.fetched: set[int] = set()  # numbers of the pictures that were sent
        self.state = State(steps=request.steps_taken * len(request.batches))
        self._loop, self._changed = loop, asyncio.Event()

    def publish(self, **changes: Any) -> None:
        """Change the state, from any thread, and wake who waits."""
        self.state = replace(self.state, **changes)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def end(self, status: str, **changes: Any) -> None:
        """Publish the last state, unless the job has ended already; of its references the names are kept."""
        if self.state.status not in ENDED:
            self.publish(status=status, ended=time.time(), **changes)
            self.request = _without_pixels(self.request)
            self._ended(self)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changes(self, every: float | None = None) -> AsyncIterator[State]:
        """The state now, and each time it has changed, and `every` so many seconds, until the job has ended."""
        while True:
            changed, state = self._changed, self.state
            yield state
            if state.status in ENDED:
                return
            with suppress(TimeoutError, asyncio.TimeoutError):  # the same since Python 3.11
                await asyncio.wait_for(changed.wait(), every)

    async def ended(self) -> State:
        """The last state, once it is reached."""
        async for state in self.changes():
            last = state
        return last


class Ledger:
    """All jobs by id: those that have not ended, and the last of the others, at most `count` and `size` bytes."""

    def __init__(self, count: int = 256, size: int = 256 << 20):
        self._count, self._size = count, size
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def add(self, job: Job) -> None:
        """Keep a job. The oldest that have ended are forgotten first."""
        self._jobs[job.id] = job
        ended = [one for one in self._jobs.values() if one.state.status in ENDED]
        total = sum(_size(one) for one in ended)
        for one in ended:
            if len(ended) <= self._count and total <= self._size:
                return
            ended = ended[1:]
            total -= _size(one)
            del self._jobs[one.id]

    def get(self, id: str) -> Job | None:
        """The job with this id, None for one that is not known or was forgotten."""
        return self._jobs.get(id)

    def forget(self, job: Job) -> None:
        """Forget a job whose pictures were handed over."""
        self._jobs.pop(job.id, None)


def _without_pixels(request: Request) -> Request:
    def light(prompt: ImagePrompt) -> ImagePrompt:
        nothing: dict[str, Any] = {"image": None}
        references, masks = (
            tuple(replace(one, **nothing) for one in many) for many in (prompt.references, prompt.masks)
        )
        embeds = None if prompt.embeds is None else replace(prompt.embeds, positive=None, negative=None, faces=None)
        return replace(prompt, references=references, masks=masks, embeds=embeds, faces=replace(prompt.faces, found=()))

    return replace(request, image_prompts=tuple(map(light, request.image_prompts)), init=None, regions=())


def _pixels(request: Request) -> int:
    """Pixels of all pictures that a request holds in memory until it is drawn."""
    pictures = [one for prompt in request.image_prompts for one in (*prompt.references, *prompt.masks)]
    if request.init is not None:
        pictures += filter(None, (request.init.loaded.image, request.init.loaded.mask))
    pictures += [region.mask for region in request.regions]
    return sum(one.width * one.height for one in pictures)


def _size(job: Job) -> int:
    return sum(len(picture.data) for picture in job.state.pictures)
