"""What the routes share: the engines' queue, the jobs, and what a request may do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from ipa_cli.config import Settings
from ipa_cli.result import KeepingReporter
from ipa_cli.serve import drawing, jobs
from ipa_cli.serve.asked import Asked
from ipa_cli.serve.jobs import Job, Ledger
from ipa_cli.serve.limits import Limits, Refused
from ipa_cli.serve.queue import Queue

if TYPE_CHECKING:
    from starlette.requests import Request as HTTPRequest

    from ipa_cli.models.lora.lora import Lora
    from ipa_cli.models.plan import Plan
    from ipa_cli.result import Reporter
    from ipa_cli.serve.metrics import Metrics
    from ipa_cli.serve.worker import Worker

DECODING = 4  # requests whose pictures are decoded at once, each with up to `asked.PIXELS`
POLL = 0.25  # seconds between two looks at whether a client is still there


@dataclass
class Service:
    """A server's state; `workers` fill in while engines are opened, `failure` is what stopped one."""

    settings: Settings
    plan: Plan
    limits: Limits
    reporter: Reporter
    metrics: Metrics
    devices: Sequence[str]
    allow_fetch: bool = False
    loras: tuple[Lora, ...] = ()
    started: float = field(default_factory=time.time)
    workers: list[Worker] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    failure: BaseException | None = None
    draining: bool = False

    def __post_init__(self) -> None:
        self.queue = Queue(self.limits.queue)
        self._decoding = asyncio.Semaphore(DECODING)

    @property
    def ready(self) -> bool:
        """Whether every engine is open and requests are taken."""
        return len(self.workers) == len(self.devices) and not self.draining and self.failure is None

    async def submit(self, asked: Asked, client: str) -> Job:
        """Check a request and let it wait.

        Raises IpaError for what is wrong with it, Refused when nothing more is taken.
        """
        kept = KeepingReporter()
        given = (asked, self.settings, self.plan, self.limits, kept, self.allow_fetch, self.loras)
        async with self._decoding:
            settings, request = await run_in_threadpool(drawing.make, *given)
        loop, counted = asyncio.get_running_loop(), self.metrics.count
        job = Job(request, settings, client, loop, asked.format, asked.quality, counted, alone=asked.bare)
        job.publish(notes=tuple(kept.notes), warnings=tuple(kept.warnings))
        self.queue.put(job)
        self.ledger.add(job)
        return job

    async def wait(self, job: Job, http: HTTPRequest) -> jobs.State:
        """The last state of a job. Cancels it when the client goes meanwhile. Raises what made it fail."""
        ended = asyncio.ensure_future(job.ended())
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=POLL)
                if not ended.done() and await http.is_disconnected():
                    self.cancel(job)
        except asyncio.CancelledError:
            self.cancel(job)
            raise
        finally:
            ended.cancel()
        return outcome(job)

    def cancel(self, job: Job) -> None:
        """End a job that waits, and let one that is drawn end after its step."""
        job.cancelled = True
        if self.queue.discard(job):
            job.end(jobs.CANCELLED)

    def has_unfetched(self, seconds: float) -> bool:
        """Whether pictures of the last `seconds` wait for their client, which asks for them once it hears of them."""
        since = time.time() - seconds
        return any(
            job.state.status == jobs.DONE
            and (job.state.ended or since) > since
            and len(job.fetched) < len(job.state.pictures)
            for job in self.ledger
        )

    def drain(self) -> None:
        """Take no more requests, and refuse those that wait; what is drawn goes on."""
        self.draining = True
        for job in self.queue.close():
            job.end(jobs.FAILED, error=Refused("the server is shutting down", "try another server", 503))


def outcome(job: Job) -> jobs.State:
    """The state of a job that has ended. Raises what made it fail."""
    state = job.state
    if state.error is not None:
        raise state.error
    if state.status == jobs.CANCELLED:
        raise Refused("the request was cancelled", "", 499)
    return state
