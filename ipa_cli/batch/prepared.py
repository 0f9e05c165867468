"""Jobs made ready to be drawn: settings, plan, LoRAs and references, some ahead of the one that is drawn."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from ipa_cli.batch import order
from ipa_cli.batch.jobs import Job
from ipa_cli.batch.notes import Quiet, without_effect
from ipa_cli.batch.task import Task
from ipa_cli.config import FIELDS, Settings
from ipa_cli.engine.content import LRU
from ipa_cli.errors import IpaError
from ipa_cli.images import encode
from ipa_cli.images.filenames import FORMATS
from ipa_cli.models import schedulers
from ipa_cli.models.lora import lora
from ipa_cli.models.plan import DEMO_REFERENCE, Plan, make_plan
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.review import review
from ipa_cli.pipeline.task import Request, make_request

AHEAD = 6  # jobs that are made ready beyond the next batch
OWN_REFERENCE = f"jobs without an image follow the model's own, {DEMO_REFERENCE}; with the image none, words alone"


@dataclass(frozen=True)
class Prepared:
    """A job that can be drawn, or the error that says why it cannot."""

    job: Job
    model: Hashable = None
    plan: Plan | None = None
    settings: Settings | None = None
    request: Request | None = None
    error: Exception | None = None


class Preparation:
    """Makes the jobs of a task ready, one at a time, whatever the number of threads that ask."""

    def __init__(self, task: Task, reporter: Quiet):
        self._task, self._reporter = task, reporter
        self._plans: LRU[Plan | IpaError] = LRU(32)
        self._loras: LRU[tuple[lora.Lora, ...]] = LRU(32)
        self._one_at_a_time = threading.Lock()
        self._idle: dict[str, None] | None = None  # notes on flags, that hold for all jobs so far

    def of(self, jobs: Iterable[Job]) -> Iterator[Prepared]:
        """Each job made ready in a thread, some ahead of the one that is drawn."""
        every, waiting = iter(jobs), deque[Future[Prepared]]()
        with ThreadPoolExecutor(1, "reader") as reader:
            try:
                while True:
                    for job in islice(every, AHEAD + self._task.settings.batch_size - len(waiting)):
                        waiting.append(reader.submit(self.one, job))
                    if not waiting:
                        return
                    yield waiting.popleft().result()
            finally:
                reader.shutdown(wait=False, cancel_futures=True)

    def one(self, job: Job) -> Prepared:
        """A job made ready, or with the error that it ended in."""
        with self._one_at_a_time:
            try:
                return self._prepare(job)
            except Exception as error:
                return Prepared(job, error=error)

    def note_idle_flags(self) -> None:
        """Note the flags that had an effect on no job so far."""
        for text in self._idle or ():
            self._reporter.note_once(text)

    def _prepare(self, job: Job) -> Prepared:
        settings = self._task.settings_of(job)
        model = order.of_model(settings)
        schedulers.choose(settings.scheduler, settings.schedule, settings.eta)
        plan = self._plan(settings)
        loras = self._loras.get((model, settings.lora), lambda: lora.load(settings.lora, plan, self._reporter))
        loaded = load_references(settings, self._reporter)
        request = make_request(settings, plan, loaded, loras, self._reporter)
        review(request, settings, plan, self._reporter)
        encode.check(FORMATS[self._task.suffix], self._task.quality, request.texts)
        self._remark(job, settings, request)
        return Prepared(job, model, plan, settings, request)

    def _plan(self, settings: Settings) -> Plan:
        """The model of some settings. Raises IpaError, the same one each time."""

        def make() -> Plan | IpaError:
            try:
                return make_plan(settings, references_later=self._task.references)
            except IpaError as error:
                return error

        found = self._plans.get(order.of_model(settings), make)
        if isinstance(found, IpaError):
            raise found
        return found

    def _remark(self, job: Job, settings: Settings, request: Request) -> None:
        """Warn, once in the same words, where a job's own settings have no effect on its picture; keep which flags."""
        if any(one.source == DEMO_REFERENCE for one in request.references):
            self._reporter.note_once(OWN_REFERENCE)
        for text in without_effect(settings, request, job.values):
            self._reporter.warn(text, f"{job.id}: ")
        flags = [name for name in FIELDS if name not in self._task.settings.inherited and name not in job.values]
        idle = dict.fromkeys(without_effect(settings, request, flags))
        self._idle = idle if self._idle is None else {text: None for text in self._idle if text in idle}
