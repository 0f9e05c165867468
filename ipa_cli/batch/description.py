"""What a batch is, as `batch.json` in its output says: begun once, continued only as the same batch, by one process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_cli import __version__
from ipa_cli.batch import pages
from ipa_cli.batch.jobs import PICTURES
from ipa_cli.batch.journal import FOLDER, RESULTS
from ipa_cli.batch.output import OTHER, Folder, Output
from ipa_cli.batch.source import Source
from ipa_cli.config import FIELDS, Settings
from ipa_cli.config.privacy import public_name, public_settings
from ipa_cli.engine.record import NOT_OF_THE_PICTURE
from ipa_cli.errors import IpaError
from ipa_cli.images.filenames import FORMATS
from ipa_cli.pipeline.spread import random_seed
from ipa_cli.result import Reporter
from ipa_cli.system import files

DESCRIPTION, LOCK = "batch.json", ".lock"
SCHEMA_VERSION = 1


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


def begin(output: Output, asked: Asked, count: int, reporter: Reporter) -> int:
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


@contextmanager
def locked(output: Output) -> Iterator[None]:
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
