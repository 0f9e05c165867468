"""`ipa batch`: all jobs are checked, then those that have no outcome yet are drawn, wherever that is done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from ipa_cli import __version__
from ipa_cli.batch import order, pages
from ipa_cli.batch import output as outputs
from ipa_cli.batch.jobs import PICTURES, Job
from ipa_cli.batch.journal import DONE, FAILED, FOLDER, PENDING, RESULTS, Journal, Outcome
from ipa_cli.batch.output import OTHER, Folder, Output
from ipa_cli.batch.progress import Progress
from ipa_cli.batch.source import Crossed, Digest, Source, survey
from ipa_cli.batch.task import Task
from ipa_cli.batch.worker import Worker
from ipa_cli.config import Settings
from ipa_cli.config.privacy import public_name, public_settings
from ipa_cli.config.settings import FIELDS
from ipa_cli.config.units import plural
from ipa_cli.engine.backend_choice import check_backend
from ipa_cli.engine.generate import note_model
from ipa_cli.engine.record import NOT_OF_THE_PICTURE
from ipa_cli.errors import RESUME_HINT, IpaError, UsageError
from ipa_cli.images import encode
from ipa_cli.images.filenames import FORMATS
from ipa_cli.models import schedulers
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline.spread import random_seed
from ipa_cli.result import Reporter
from ipa_cli.system import files

DESCRIPTION, LOCK = "batch.json", ".lock"
SCHEMA_VERSION = 1
# Draws all jobs that an iterator gives, in one way or another.
Draw = Callable[[Task, Iterator[Job], Callable[[Outcome], None], Reporter], None]


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    settings: Settings
    source: Source
    output: str
    suffix: str = ".png"
    quality: int | None = None
    resume: bool = False
    retry_failed: bool = False


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
    with _locked(output):
        task = replace(task, seed=_begin(output, asked, found.count, reporter))
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


def _begin(output: Output, asked: Asked, count: int, reporter: Reporter) -> int:
    """Describe the batch in its output, which must hold none, one that drew nothing, or this one; the seed of its jobs.

    Jobs may have been added at the end since, and another device may go on. Raises IpaError.
    """
    described = _describe(asked, count)
    existing, journal, again = _read(output), output.names(FOLDER), asked.resume or asked.retry_failed
    if existing is None:
        _check_free(output, journal)
    elif isinstance(output, Folder):
        _remove_unfinished(output.path)
        if not (journal or again):
            existing = None  # no job of it has ended
    if existing is not None:
        if not again:
            hint = "--resume draws what is missing, --retry-failed also what failed"
            raise IpaError(f"{output.name} holds a batch already", f"{hint}; or choose another --output")
        before = existing["jobs"]
        same = asked.source.digest(before["bytes"])
        if (same.size, same.sha256) != (before["bytes"], before["sha256"]):
            raise IpaError(
                f"{output.name} holds a batch of other jobs: {asked.source.name} has changed",
                "jobs may be added at its end; for others choose another --output",
            )
        now = dict(described["settings"])
        device = now.pop("device")
        if existing["settings"].get("device") != device:
            begun = existing["settings"].get("device")
            reporter.note(f"begun with --device {begun}: pictures of another device may differ from its in rounding")
        if existing.get("ipa") != __version__:
            begun = existing.get("ipa")
            reporter.note(f"begun with ipa {begun}: pictures of another version may differ from its")
        for name, value in (("settings", now), ("format", described["format"]), ("quality", described["quality"])):
            _check_same(output, name, existing[name], value)
        described["seed"] = existing["seed"]
    output.write(DESCRIPTION, json.dumps(described, indent=2).encode() + b"\n")
    return int(described["seed"])


def _check_free(output: Output, journal: list[str]) -> None:
    """Raise IpaError where files that are not of a batch would be overwritten."""
    there = [name.rpartition("/")[2] for name in output.names("")]
    taken = [name for name in there if name == RESULTS or pages.NAMES.fullmatch(name)]
    if found := [*journal, *taken, *output.names(PICTURES)]:
        raise IpaError(f"{output.name} holds {found[0]} but no {DESCRIPTION}", OTHER)


def _remove_unfinished(folder: Path) -> None:
    """Remove what an earlier run was writing when it was killed."""
    pictures = folder / PICTURES
    for inside in (folder, pictures, *pictures.glob("[0-9]*")):
        if not (pictures.is_symlink() or inside.is_symlink()):
            for left in inside.glob(files.UNFINISHED):
                with suppress(OSError):
                    left.unlink()


def _describe(asked: Asked, count: int) -> dict[str, Any]:
    digest = asked.source.digest()
    names = [name for name in FIELDS if name not in NOT_OF_THE_PICTURE]
    return {
        "schema_version": SCHEMA_VERSION,
        "ipa": __version__,
        "jobs": {
            "source": public_name(asked.source.name),
            "count": count,
            "bytes": digest.size,
            "sha256": digest.sha256,
        },
        "seed": random_seed(),
        "format": FORMATS[asked.suffix],
        "quality": asked.quality,
        "settings": json.loads(json.dumps(public_settings(asked.settings, names))),
    }


def _read(output: Output) -> dict[str, Any] | None:
    data = output.read(DESCRIPTION)
    if data is None:
        return None
    try:
        found = json.loads(data)
        jobs = found["jobs"]
        usual = found["schema_version"] == SCHEMA_VERSION and type(found["seed"]) is int
        if (
            usual
            and type(jobs["bytes"]) is int
            and isinstance(jobs["sha256"], str)
            and isinstance(found["settings"], dict)
            and {"format", "quality"} <= set(found)
        ):
            return found
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    raise IpaError(f"{output.name}/{DESCRIPTION} describes no batch of this version of ipa", OTHER)


def _check_same(output: Output, name: str, before: Any, now: Any) -> None:
    if isinstance(now, Mapping):
        changed = [f"{key} {before.get(key)!r} → {value!r}" for key, value in now.items() if before.get(key) != value]
    else:
        changed = [f"{name} {before!r} → {now!r}"] if before != now else []
    if changed:
        raise IpaError(
            f"{output.name} holds another batch: {', '.join(changed)}",
            "give the same flags, or choose another --output",
        )


@contextmanager
def _locked(output: Output) -> Iterator[None]:
    """Lock a folder on disk against other batches; a bucket has no locks."""
    if not isinstance(output, Folder):
        yield
        return
    from filelock import FileLock, Timeout

    files.make_folder(output.path)
    for name in (DESCRIPTION, RESULTS, pages.FIRST, pages.SHEET):
        files.check_writable(output.path / name, replacing=True)
    kind = files.kind(output.path / LOCK)
    if kind is not None:
        raise IpaError(f"{output.path / LOCK} is {kind}", "remove it, or choose another --output")
    lock = FileLock(output.path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise IpaError(
            f"another batch is running in {output.path}", "wait for it, or choose another --output"
        ) from error
    except OSError as error:  # of a network disk
        raise IpaError(f"{output.path / LOCK} cannot be locked: {error.strerror or error}", OTHER) from error
    try:
        yield
    finally:
        lock.release()
