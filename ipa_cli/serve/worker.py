"""The thread that draws: takes jobs from the queue, one after the other, on one engine."""

from __future__ import annotations

import hashlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ipa_cli.engine.record import record
from ipa_cli.errors import IpaError
from ipa_cli.images import encode
from ipa_cli.result import Advance, Reporter
from ipa_cli.serve import jobs
from ipa_cli.serve.jobs import Job
from ipa_cli.serve.queue import Queue

if TYPE_CHECKING:
    from PIL.Image import Image

    from ipa_cli.engine.engine import Drawing, Engine
    from ipa_cli.engine.graphs import Ready

MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "AVIF": "image/avif"}


class Cancelled(Exception):
    """Nobody waits for the pictures that are being drawn."""


class JobReporter:
    """The reporter of an engine: what is said while a job is drawn becomes part of its state.

    `log` hears all the rest, such as what is said while the engine is opened.
    """

    def __init__(self, log: Reporter):
        self._log = log
        self.job: Job | None = None

    def note(self, text: str) -> None:
        if self.job is not None:
            self.job.publish(notes=(*self.job.state.notes, text))
        else:
            self._log.note(text)

    def detail(self, text: str) -> None:
        self._log.detail(text)

    def warn(self, text: str) -> None:
        if self.job is not None:
            self.job.publish(warnings=(*self.job.state.warnings, text))
        self._log.warn(text)

    def bug(self, error: Exception) -> None:
        """Report what is not foreseen, with its traceback: the job has failed, and the server goes on."""
        self._log.warn("".join(traceback.format_exception(error)))

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        if self.job is None:
            with self._log.stage(name) as doing:
                yield doing
        else:
            self.job.publish(doing=name)
            yield lambda doing: None

    @contextmanager
    def steps(self, name: str, total: int) -> Iterator[Advance]:
        job = self.job
        if job is None:
            yield lambda: None
            return
        job.publish(doing="drawing")

        def advance() -> None:
            if job.cancelled:
                raise Cancelled
            job.publish(step=job.state.step + 1)

        yield advance


class Worker:
    """Draws the jobs of a queue on one engine, in the thread that calls `work`; `job` is the one that is drawn."""

    def __init__(self, engine: Engine, reporter: JobReporter, queue: Queue):
        self.engine, self._reporter, self._queue = engine, reporter, queue
        self.job: Job | None = None

    def work(self) -> None:
        """Draw until the queue is closed."""
        with ThreadPoolExecutor(2, "encoder") as encoders:
            while taken := self._queue.take():
                for job in taken:
                    self._draw(job, encoders)

    def _draw(self, job: Job, encoders: ThreadPoolExecutor) -> None:
        if job.cancelled:
            job.end(jobs.CANCELLED)
            return
        began = time.time()
        job.publish(status=jobs.RUNNING, started=began)
        self.job = self._reporter.job = job
        try:
            ready = self.engine.prepare(job.request)
            job.publish(
                graph={"backend": ready.backend, **ready.facts},
                device=str(self.engine.device),
                timings={"prepare_s": time.time() - began},
            )
            drawn: list[Drawing] = []
            encoding: list[Future[jobs.Picture]] = []
            for numbers in job.request.batches:
                drawing = self.engine.draw_batch(job.request, numbers)
                drawn.append(drawing)
                for number, image in drawing.images.items():
                    encoding.append(encoders.submit(_encoded, self.engine, job, ready, number, image))
        except Cancelled:
            job.end(jobs.CANCELLED)
        except Exception as error:
            job.end(jobs.FAILED, error=error)
            if not isinstance(error, IpaError):
                self._reporter.bug(error)
        else:
            job.publish(memory=self.engine.memory(), doing="encoding")
            # The next job is drawn meanwhile.
            encoders.submit(_finish, job, drawn, encoding, began)
        finally:
            self.job = self._reporter.job = None


def _encoded(engine: Engine, job: Job, ready: Ready, number: int, image: Image) -> jobs.Picture:
    request = job.request
    data = encode.encode(image, record(engine, job.settings, ready, request, number), job.format, job.quality)
    return jobs.Picture(
        data,
        MEDIA_TYPES[job.format],
        hashlib.sha256(data).hexdigest(),
        request.prompt,
        request.seeds[number],
        request.scale,
        image.width,
        image.height,
    )


def _finish(job: Job, drawn: Sequence[Drawing], encoding: Sequence[Future[jobs.Picture]], began: float) -> None:
    try:
        pictures = tuple(one.result() for one in encoding)
    except Exception as error:
        job.end(jobs.FAILED, error=error)
        return
    steps_s, steps = sum(one.steps_s for one in drawn), sum(one.steps for one in drawn)
    timings = {
        **job.state.timings,
        "queued_s": began - job.created,
        "steps_s": steps_s,
        "decode_s": sum(one.decode_s for one in drawn),
        "total_s": time.time() - job.created,
        "it_per_s": steps / steps_s if steps_s else 0.0,
    }
    job.end(jobs.DONE, pictures=pictures, timings=timings, doing="")


def start(work: Callable[[], None], failed: Callable[[BaseException], None], name: str) -> threading.Thread:
    """Run `work` in a thread of its own; `failed` hears of what it raises."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
