"""Draws jobs on one engine after the other: in this process, in one for each device, or in an actor on a cluster.

The next jobs are read and encoded, and the last pictures decoded, compressed and written, while one is drawn, so that a
GPU need not wait for them.
"""

from __future__ import annotations

import hashlib
import threading
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from ipa_cli.batch import order, output
from ipa_cli.batch.grouping import Batches, distinct, filled, requests
from ipa_cli.batch.jobs import Job
from ipa_cli.batch.journal import Outcome
from ipa_cli.batch.notes import Quiet
from ipa_cli.batch.prepared import Preparation, Prepared
from ipa_cli.batch.task import Task
from ipa_cli.config import Settings
from ipa_cli.config.privacy import public_text
from ipa_cli.engine.engine import Engine
from ipa_cli.engine.record import drawn_by, record
from ipa_cli.errors import IpaError
from ipa_cli.images import encode
from ipa_cli.images.filenames import FORMATS
from ipa_cli.models.plan import Plan
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    from ipa_cli.engine.drawing import Begun

WRITERS = 4  # threads that compress and write
WAITING = 12  # pictures, or two batches, that are drawn or in memory until they are written
BUGS = 5  # unforeseen errors one after the other until the batch stops


@dataclass(frozen=True)
class Drawn:
    """A picture that is not written yet, one of so many that shared the calls of the UNet."""

    prepared: Prepared
    engine: Any
    begun: Begun
    of: int


Opened = Callable[[Settings, Plan, Reporter], Any]
Size = tuple[int, int]  # width and height in pixels


class Worker:
    """Draws jobs of a `Task`; `done` is called with each outcome, from any thread."""

    def __init__(self, task: Task, reporter: Reporter, opened: Opened = Engine.open):
        self._task, self._opened = task, opened
        self._log, self._reporter = reporter, Quiet(reporter)
        self._output = output.of(task.output)
        self._preparation = Preparation(task, self._reporter)
        self._batches = Batches(task.settings.batch_size)
        self._engine: Any = None
        self._model: Hashable = None
        self._unopened: dict[Hashable, IpaError] = {}
        self._drawing = threading.Lock()
        self._bugs = 0

    def draw(self, jobs: Iterable[Job], done: Callable[[Outcome], None]) -> dict[Size, dict[str, Any]]:
        """Draw jobs in their order; what drew those of each size.

        Of several threads that call it one draws, while the pictures of another are still written. A job that fails is
        an outcome. Raises IpaError where nothing more can be written or the model of the batch cannot be loaded, and
        the last of several unforeseen errors in a row; what is drawn by then is written.
        """
        room, broken = threading.BoundedSemaphore(waiting(self._task.settings)), deque[BaseException](maxlen=1)

        def hand_over(work: Future[None]) -> None:
            room.release()
            if (error := work.exception()) is not None:
                broken.append(error)

        sizes: dict[Size, dict[str, Any]] = {}
        with (
            closing(self._batches.of(self._preparation.of(jobs))) as batches,
            ThreadPoolExecutor(WRITERS, "writer") as writers,
        ):
            first = list(islice(batches, 1))  # is made ready while another thread draws
            with self._drawing:
                for several in chain(first, batches):
                    for drawn in self._drawn(several, done, sizes):
                        room.acquire()
                        writers.submit(self._keep, drawn, done).add_done_callback(hand_over)
                    if broken:
                        raise broken[0]
        if broken:
            raise broken[0]
        return sizes

    def note_idle_flags(self) -> None:
        """Note the flags that had an effect on no job so far."""
        self._preparation.note_idle_flags()

    def close(self) -> None:
        """Give the engine's memory back."""
        engine, self._engine, self._model = self._engine, None, None
        if engine is not None:
            engine.close()

    # --- drawing ---------------------------------------------------------------------------------------------------

    def _drawn(
        self, several: Sequence[Prepared], done: Callable[[Outcome], None], sizes: dict[Size, dict[str, Any]]
    ) -> Iterator[Drawn]:
        """The pictures of one batch, the last of which may be repeated; jobs that fail end here.

        What draws them is noted in `sizes`.
        """
        first, jobs = several[0], distinct(several)
        if first.error is not None:
            self._fail(jobs, first.error, done)
            return
        try:
            engine = self._engine_of(first)
        except IpaError as error:
            if first.model == order.of_model(self._task.settings):
                raise  # no other job could be drawn
            self._unopened[first.model] = error
            self._fail(jobs, error, done)
            return
        begun, left = self._begin(engine, several, done)
        for prepared, one in zip(left, begun, strict=False):
            assert prepared.request is not None
            sizes[prepared.request.width, prepared.request.height] = drawn_by(engine, one.ready)
            yield Drawn(prepared, engine, one, len(left))

    def _begin(
        self, engine: Any, several: Sequence[Prepared], done: Callable[[Outcome], None]
    ) -> tuple[Sequence[Begun], Sequence[Prepared]]:
        """Have a batch drawn, and the jobs that are in it; those that fail end here.

        Where a whole batch fails, each job is encoded alone: one whose prompt or reference is the reason ends, the
        others are begun once more, with the last repeated, so that the same graph serves.
        """
        jobs = distinct(several)
        try:
            return engine.begin(requests(several)), jobs
        except Exception as error:
            if len(jobs) == 1:
                self._fail(jobs, error, done)
                return (), ()
            self._log.warn(f"{len(jobs)} jobs cannot be drawn together, each is encoded alone: {_said(error)}")
        left = [job for job in jobs if self._encodes(engine, job, done)]
        try:
            return engine.begin(requests(filled(left, len(several)))) if left else (), left
        except Exception as error:
            self._fail(left, error, done)
            return (), ()

    def _encodes(self, engine: Any, job: Prepared, done: Callable[[Outcome], None]) -> bool:
        """Whether the prompts and references of a job can be encoded; a job that fails ends here."""
        try:
            engine.encode(requests([job]))
        except Exception as error:
            self._fail([job], error, done)
            return False
        return True

    def _engine_of(self, prepared: Prepared) -> Any:
        """The engine for a job, opened where the one before had another model. Raises IpaError, again each time."""
        if prepared.model in self._unopened:
            raise self._unopened[prepared.model]
        if self._engine is None or self._model != prepared.model:
            self.close()
            assert prepared.settings is not None and prepared.plan is not None
            self._engine = self._opened(prepared.settings, prepared.plan, self._reporter)
            self._model = prepared.model
        return self._engine

    def _fail(self, several: Sequence[Prepared], error: Exception, done: Callable[[Outcome], None]) -> None:
        if not isinstance(error, IpaError):
            self._log.warn("".join(traceback.format_exception(error)))
            self._bugs += 1
            if self._bugs >= BUGS:
                raise error
        said = _said(error)
        hint = public_text(error.hint)[:2000] or None if isinstance(error, IpaError) else None
        for prepared in several:
            done(Outcome(prepared.job.number, prepared.job.id, "failed", error=public_text(said)[:2000], hint=hint))

    # --- writing ---------------------------------------------------------------------------------------------------

    def _keep(self, drawn: Drawn, done: Callable[[Outcome], None]) -> None:
        """Compress and write a picture, then tell of it."""
        job, request, settings, task = drawn.prepared.job, drawn.prepared.request, drawn.prepared.settings, self._task
        assert request is not None and settings is not None
        try:
            drawing = drawn.begun.drawing()
            recorded = record(drawn.engine, settings, drawn.begun.ready, request, 0)
            data = encode.encode(drawing.images[0], recorded, FORMATS[task.suffix], task.quality)
        except Exception as error:
            self._fail([drawn.prepared], error, done)
            return
        self._bugs = 0
        name = job.file(task.suffix)
        self._output.write(name, data)
        digest = hashlib.sha256(data).hexdigest()
        steps_s, decode_s = drawing.steps_s / drawn.of, drawing.decode_s / drawn.of
        done(
            Outcome(
                *(job.number, job.id, "done", name, digest, request.seeds[0]),
                seconds=round(steps_s + decode_s, 4),
                steps_s=round(steps_s, 4),
                decode_s=round(decode_s, 4),
            )
        )


def waiting(settings: Settings) -> int:
    """How many pictures may be drawn and not written."""
    return max(WAITING, 2 * settings.batch_size)


def _said(error: Exception) -> str:
    return error.message if isinstance(error, IpaError) else f"{type(error).__name__}: {error}"
