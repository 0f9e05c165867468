"""The thread that draws: takes jobs from the queue, one after the other, on one engine."""

from __future__ import annotations

import hashlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from ipa_cli.config.privacy import public_name
from ipa_cli.engine.record import record
from ipa_cli.engine.together import alike
from ipa_cli.errors import IpaError
from ipa_cli.images import encode
from ipa_cli.result import Advance, Reporter
from ipa_cli.serve import jobs
from ipa_cli.serve.jobs import Job, Picture
from ipa_cli.serve.queue import Queue

if TYPE_CHECKING:
    from PIL.Image import Image

    from ipa_cli.engine.drawing import Drawing
    from ipa_cli.engine.engine import Engine
    from ipa_cli.engine.ready import Ready

MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "AVIF": "image/avif"}


class Cancelled(Exception):
    """Nobody waits for the pictures that are being drawn."""


class JobReporter:
    """The reporter of an engine: what is said while a job is drawn becomes part of its state.

    `log` gets all the rest, such as what is said while the engine is opened.
    """

    def __init__(self, log: Reporter):
        self._log = log
        self.jobs: Sequence[Job] = ()

    def note(self, text: str) -> None:
        for job in self.jobs:
            job.publish(notes=(*job.state.notes, text))
        if not self.jobs:
            self._log.note(text)

    def detail(self, text: str) -> None:
        self._log.detail(text)

    def warn(self, text: str) -> None:
        for job in self.jobs:
            job.publish(warnings=(*job.state.warnings, text))
        self._log.warn(text)

    def bug(self, error: Exception) -> None:
        """Report what is not foreseen, with its traceback: the job has failed, and the server goes on."""
        self._log.warn("".join(traceback.format_exception(error)))

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        for job in self.jobs:
            job.publish(doing=name)
        with nullcontext(lambda doing: None) if self.jobs else self._log.stage(name) as doing:
            yield doing

    @contextmanager
    def steps(self, name: str, total: int) -> Iterator[Advance]:
        for job in self.jobs:
            job.publish(doing="drawing")

        def advance() -> None:
            if self.jobs and all(job.cancelled for job in self.jobs):
                raise Cancelled
            for job in self.jobs:
                job.publish(step=job.state.step + 1)

        yield advance


class Worker:
    """Draws the jobs of a queue on one engine, in the thread that calls `work`; `jobs` are those being drawn.

    Up to `batch_size` jobs that fit share the calls of the UNet; fewer are drawn one by one, so that two graphs serve.
    """

    def __init__(self, engine: Engine, reporter: JobReporter, queue: Queue, batch_size: int = 1):
        self.engine, self._reporter, self._queue, self._batch_size = engine, reporter, queue, batch_size

    @property
    def jobs(self) -> Sequence[Job]:
        return self._reporter.jobs

    def work(self) -> None:
        """Draw until the queue is closed."""
        with ThreadPoolExecutor(2, "encoder") as encoders:
            while taken := self._queue.take(self._batch_size, fits):
                wanted = [job for job in taken if not job.cancelled]
                for job in taken:
                    if job.cancelled:
                        job.end(jobs.CANCELLED)
                together = len(wanted) == self._batch_size > 1
                for several in [wanted] if together else [[job] for job in wanted]:
                    self._draw(several, encoders)

    def _draw(self, several: Sequence[Job], encoders: ThreadPoolExecutor) -> None:
        began, request = time.time(), several[0].request
        for job in several:
            job.publish(status=jobs.RUNNING, started=began)
        self._reporter.jobs = several
        try:
            ready = self.engine.prepare(request)
            for job in several:
                job.publish(
                    graph={"backend": ready.backend, **ready.facts},
                    device=str(self.engine.device),
                    timings={"prepare_s": time.time() - began},
                )
            if len(several) > 1:
                drawn = self.engine.draw_together([job.request for job in several])
            else:
                drawn = [self.engine.draw(request)]
        except Cancelled:
            for job in several:
                job.end(jobs.CANCELLED)
        except Exception as error:
            if len(several) == 1:
                self._fail(several, error)
                return
            log = f"{len(several)} jobs cannot be drawn together, each is drawn alone: {type(error).__name__}: {error}"
            self._reporter.warn(log)
            for job in several:
                self._draw([job], encoders)
        else:
            for job, drawing in zip(several, drawn, strict=True):
                job.publish(memory=self.engine.memory(), doing="encoding")
                # The next job is drawn meanwhile.
                encoding = [
                    encoders.submit(_encoded, self.engine, job, ready, number, image)
                    for number, image in drawing.images.items()
                ]
                encoders.submit(self._finish, job, drawing, encoding, began)
        finally:
            self._reporter.jobs = ()

    def _finish(self, job: Job, drawn: Drawing, encoding: Sequence[Future[Picture]], began: float) -> None:
        if job.cancelled:
            job.end(jobs.CANCELLED)
            return
        try:
            pictures = tuple(one.result() for one in encoding)
        except Exception as error:
            self._fail([job], error)
            return
        timings = {
            **job.state.timings,
            "queued_s": began - job.created,
            "steps_s": drawn.steps_s,
            "decode_s": drawn.decode_s,
            "total_s": time.time() - job.created,
            "it_per_s": drawn.it_per_s,
        }
        job.end(jobs.DONE, pictures=pictures, timings=timings, doing="")

    def _fail(self, several: Sequence[Job], error: Exception) -> None:
        for job in several:
            job.end(jobs.FAILED, error=error)
        if not isinstance(error, IpaError):
            self._reporter.bug(error)


def fits(one: Job, other: Job) -> bool:
    """Whether two jobs can share the calls of the UNet."""
    return not one.alone and not other.alone and alike(one.request, other.request)


def _encoded(engine: Engine, job: Job, ready: Ready, number: int, image: Image) -> Picture:
    request = job.request
    data = encode.encode(image, record(engine, job.settings, ready, request, number), job.format, job.quality)
    return Picture(
        data,
        MEDIA_TYPES[job.format],
        hashlib.sha256(data).hexdigest(),
        request.prompt,
        request.seeds[number],
        request.scale,
        image.width,
        image.height,
        tuple(public_name(one.source) for one in request.of_picture(number).sources),
    )


def start(work: Callable[[], None], failed: Callable[[BaseException], None], name: str) -> threading.Thread:
    """Run `work` in a thread of its own; `failed` is called with what it raises."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
