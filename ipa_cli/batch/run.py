"""`ipa batch`: all jobs are checked, then those that have no outcome yet are drawn, wherever that is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

from ipa_cli.batch import order, pages
from ipa_cli.batch import output as outputs
from ipa_cli.batch.description import Asked, begin, locked
from ipa_cli.batch.jobs import PICTURES, Job
from ipa_cli.batch.journal import DONE, FAILED, FOLDER, PENDING, RESULTS, Journal, Outcome
from ipa_cli.batch.output import OTHER, Folder, Output
from ipa_cli.batch.progress import Progress
from ipa_cli.batch.source import Crossed, Digest, Source, survey
from ipa_cli.batch.task import Task
from ipa_cli.batch.worker import Worker
from ipa_cli.config.privacy import public_name
from ipa_cli.config.units import plural
from ipa_cli.engine.backend_choice import check_backend
from ipa_cli.engine.generate import note_model
from ipa_cli.errors import RESUME_HINT, IpaError, UsageError
from ipa_cli.images import encode
from ipa_cli.images.filenames import FORMATS
from ipa_cli.models import schedulers
from ipa_cli.models.plan import make_plan
from ipa_cli.result import Reporter

# Draws all jobs that an iterator gives, in one way or another.
Draw = Callable[[Task, Iterator[Job], Callable[[Outcome], None], Reporter], None]


@dataclass(frozen=True)
class Done:
    """A batch whose jobs all have an outcome: `drawn` in this run, `failed` in all, some `before`; times in seconds.

    `first_failed` is the first of those that failed, by the order of the jobs.
    """

    output: str
    local: bool
    jobs: int
    drawn: int
    failed: int
    before: int
    seconds: float
    first_s: float
    pictures_per_s: float | None
    pages: int
    first_failed: Outcome | None = None


def run(asked: Asked, reporter: Reporter, live: bool, draw: Draw) -> Done:
    """Draw every job that has no outcome yet, as `draw` does it, and leave results and pages.

    Raises ConfigError for a job that is not as it must be, before anything is loaded, and IpaError where the output
    cannot be written or holds another batch.
    """
    settings = asked.settings
    schedulers.choose(settings.scheduler, settings.schedule, settings.eta)
    check_backend(settings.backend, settings.precision)
    encode.check(FORMATS[asked.suffix], asked.quality, ())
    digest = asked.source.digest()
    with reporter.stage("checking jobs") as doing:
        found = survey(asked.source, doing, _check_sampling(asked))
    output = outputs.of(asked.output)
    _check_apart(asked.source, output)
    given = settings.image or settings.embeds or settings.adapter
    references = bool({"image", "embeds", "adapter"} & found.names or given)
    task = Task(settings, asked.output, 0, asked.suffix, asked.quality, references)
    _check_first(task, found.first, reporter)
    with locked(output):
        task = replace(task, seed=begin(output, asked, found.count, reporter))
        journal = Journal(output, found.count)
        try:
            progress = _draw(asked, task, journal, output, reporter, live, draw)
        except BaseException as error:
            _leave_results(journal, output, reporter)
            if isinstance(error, KeyboardInterrupt):
                reporter.warn(f"stopped; {RESUME_HINT}")
            raise
        journal.close()
        _warn_of_change(asked.source, digest, reporter)
        output.write_lines(RESULTS, (one.line() for one in journal.outcomes()))
        with reporter.stage("contact sheet and pages"):
            title = f"{plural(found.count, 'job')} of {Path(public_name(asked.source.name)).name}"
            written = pages.write(output, journal.outcomes(), title)
        left = journal.counted(PENDING)
        if left:
            raise IpaError(f"{plural(left, 'job')} came back without a result", RESUME_HINT)
        return Done(
            output=output.name,
            local=isinstance(output, Folder),
            jobs=found.count,
            drawn=progress.done - progress.failed,
            failed=journal.counted(FAILED),
            before=found.count - progress.done,
            seconds=progress.last,
            first_s=progress.first,
            pictures_per_s=progress.per_second,
            pages=written,
            first_failed=next((one for one in journal.outcomes() if one.status == "failed"), None),
        )


def _warn_of_change(source: Source, before: Digest, reporter: Reporter) -> None:
    """Warn where the jobs are not what they were, or gone; those added at the end meanwhile are left to `--resume`."""
    try:
        changed = source.digest(before.size) != before
    except IpaError:
        changed = True
    if changed:
        reporter.warn(f"{source.name} was changed while it was drawn: pictures may be of lines before and after")


def _leave_results(journal: Journal, output: Output, reporter: Reporter) -> None:
    """Write what has ended by now, though the batch breaks off; say so where that fails, as on a full disk."""
    with suppress(IpaError):
        journal.close()
    try:
        output.write_lines(RESULTS, (one.line() for one in journal.outcomes()))
    except IpaError as error:
        reporter.warn(
            f"{RESULTS} is not as far as {FOLDER}/, which has each job that has ended: {error.message}; "
            "--resume writes it anew"
        )


def here(task: Task, jobs: Iterator[Job], done: Callable[[Outcome], None], reporter: Reporter) -> None:
    """Draw in this process, on one device."""
    with closing(Worker(task, reporter)) as drawer:
        drawer.draw(jobs, done)
        drawer.note_idle_flags()


def _draw(
    asked: Asked, task: Task, journal: Journal, output: Output, reporter: Reporter, live: bool, draw: Draw
) -> Progress:
    wanted = {PENDING, FAILED} if asked.retry_failed else {PENDING}
    if journal.counted(DONE):
        for job in islice(asked.source.jobs(), journal.count):
            if journal.state(job.number) == DONE and not output.has(job.file(asked.suffix)):
                journal.forget(job.number)
    missing = sum(journal.counted(state) for state in wanted)
    there = journal.counted(DONE)
    reporter.note(f"{plural(missing, 'picture')} to draw{f', {there} exist' if there else ''}, in {output.name}")
    if not missing:
        return Progress(0, reporter, lambda doing: None, live)
    with reporter.stage("drawing") as doing:
        progress = Progress(missing, reporter, doing, live)

        def done(outcome: Outcome) -> None:
            journal.add(outcome)
            progress.count(outcome)

        every = islice(asked.source.jobs(), journal.count)  # and none that is added meanwhile
        jobs = (job for job in every if journal.state(job.number) in wanted)
        draw(task, order.ordered(jobs), done, reporter)
    return progress


def _check_sampling(asked: Asked) -> Callable[[Job], None]:
    """Raises what `schedulers.choose` does for a job: it has a sampler that is none, or whose package is missing."""
    names = ("scheduler", "schedule", "eta")
    choose = lru_cache(1024)(schedulers.choose)

    def check(job: Job) -> None:
        if not job.values.keys() & set(names):
            return
        try:
            choose(*(job.values.get(name, getattr(asked.settings, name)) for name in names))
        except IpaError as error:
            where = f"{asked.source.name}, job {job.number} ({job.id!r})"
            raise type(error)(f"{where}: {error.message}", error.hint) from error

    return check


def _check_apart(source: Source, output: Output) -> None:
    """Raise UsageError where references lie where pictures are written: these would be jobs when it is resumed."""
    if isinstance(source, Crossed) and isinstance(output, Folder):
        written = {os.path.realpath(folder) for folder in (output.path, output.path / PICTURES)}
        folders = {folder for folder in map(os.path.dirname, source.pictures) if os.path.realpath(folder) in written}
        if first := next((one for one in source.pictures if os.path.dirname(one) in folders), None):  # noqa: PTH120
            raise UsageError(f"the reference {first} is in the output {output.name}", OTHER)


def _check_first(task: Task, first: Job, reporter: Reporter) -> None:
    """Raise IpaError where the model of the batch is not as it must be, unless the first job names its own."""
    settings = task.settings_of(first)
    if order.of_model(settings) == order.of_model(task.settings):
        note_model(settings, make_plan(settings, references_later=task.references), reporter)
