"""A sweep on disk: its plan (`sweep.json`), its finished points (`results.jsonl`), and resuming after a kill.

Nothing here holds a time or anything else that differs between two runs of the same plan, so that a sweep that was
killed and resumed ends with the same bytes as one that was not. Every file is written beside its place and moved
there; only the journal grows in place, by whole lines, each on disk before the next picture is begun.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_cli.config.privacy import public
from ipa_cli.errors import IpaError
from ipa_cli.sweep.plan import Point, Sweep, format_scale
from ipa_cli.system import files, inputs

SCHEMA_VERSION = 2
DESCRIPTION, RESULTS, SHEET, PAGE, LOCK = "sweep.json", "results.jsonl", "contact-sheet.png", "index.html", ".lock"
PICTURES, ANIMATIONS = "pictures", "animations"
ELSEWHERE = "choose another place with --output; finished pictures stay, and --resume continues"
REFERENCE_DIGESTS = "reference_sha256"
MAX_FILE_BYTES = 64_000_000  # of what is read back; 10,000 points take a few million
MAX_PICTURE_BYTES = 512_000_000
# All that a sweep writes; with --force a new one removes these and nothing else.
SWEEP_FILES = (RESULTS, SHEET, PAGE, f"{PICTURES}/row-*-scale-*.png", f"{ANIMATIONS}/row-*.webp", DESCRIPTION)


class FolderError(IpaError):
    """The folder cannot take this sweep."""


@dataclass(frozen=True)
class Outcome:
    """The result of a point: the SHA-256 of its picture, or the error."""

    point: Point
    sha256: str | None
    error: str | None = None


def describe(sweep: Sweep, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The plan as JSON: the axes, and everything else that determines the pictures."""
    plan = {
        "scales": sweep.scales,
        "references": sweep.references,
        "prompts": sweep.prompts,
        "sizes": sweep.sizes,
        "seeds": sweep.seeds,
        "lora_weights": None if sweep.lora_weights == (1.0,) else sweep.lora_weights,
        "modes": None if len(sweep.modes) == 1 else sweep.modes,
        "control_scales": None if sweep.control_scales == (1.0,) else sweep.control_scales,
        **settings,
    }
    return json.loads(json.dumps(public(plan), allow_nan=False))


def read_description(folder: Path) -> dict[str, Any] | None:
    """The plan of the sweep in `folder`, None where there is none. Raises FolderError when it cannot be read."""
    path = folder / DESCRIPTION
    text = _read(path)
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path} cannot be read: {error}", "choose another --output, or --force") from error
    plan = found.get("plan") if isinstance(found, dict) else None
    seeds = plan.get("seeds") if isinstance(plan, dict) else None
    if not isinstance(seeds, list) or any(type(seed) is not int for seed in seeds):
        raise FolderError(f"{path} does not describe a sweep", "choose another --output, or --force")
    if found.get("schema_version") != SCHEMA_VERSION:
        raise FolderError(f"{path} is of another version of ipa", "choose another --output, or --force")
    return plan


def check_folder(folder: Path, plan: Mapping[str, Any], resume: bool, force: bool) -> None:
    """Refuse to mix two sweeps or to overwrite anything; changes nothing. Raises FolderError.

    `plan` may be incomplete: only what it has is compared.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise FolderError(f"{folder} is a file, not a folder", "choose another --output")
    for name in (DESCRIPTION, RESULTS, SHEET, PAGE, LOCK, PICTURES, ANIMATIONS):
        with _as_folder_error(folder):
            there = files.kind(folder / name)
        if there not in (None, "a folder"):
            raise FolderError(f"{folder / name} is {there}", "remove it, or choose another --output")
    if force:
        return
    found = read_description(folder)
    if found is None:
        left = [path.name for pattern in SWEEP_FILES for path in folder.glob(pattern)]
        if left:
            raise FolderError(f"{folder} holds {left[0]} but no sweep.json", "choose another --output, or --force")
    elif different := changed(found, plan):
        what = ", ".join(different)
        raise FolderError(f"{folder} holds another sweep: {what}", "choose another --output, or --force to replace it")
    elif not resume:
        hint = "--resume draws what is missing, --force starts over"
        raise FolderError(f"{folder} holds this sweep already", hint)


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """How `before` differs from `after` in the entries of `after`, as text for people."""
    different = [name for name, value in after.items() if before.get(name) != value]
    if "references" in different and REFERENCE_DIGESTS in different:
        different.remove(REFERENCE_DIGESTS)  # it differs for that reason
    return [
        "the content of a reference has changed"
        if name == REFERENCE_DIGESTS
        else f"{name.replace('_', ' ')} {_brief(before.get(name))} → {_brief(after[name])}"
        for name in different
    ]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder against other sweeps. Raises FolderError when one holds the lock or the folder cannot be made."""
    from filelock import FileLock, Timeout

    with _as_folder_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise FolderError(
                f"another sweep is running in {folder}", "wait for it, or choose another --output"
            ) from error
    try:
        with _as_folder_error(folder):
            for inside in (folder, folder / PICTURES, folder / ANIMATIONS):
                for leftover in inside.glob(files.UNFINISHED):  # of a sweep that was killed
                    leftover.unlink()
        yield
    finally:
        lock.release()


def completed(folder: Path, sweep: Sweep) -> dict[int, Outcome]:
    """The points that need not be drawn again, by number: their picture and line are complete; none that failed."""
    return {
        number: outcome
        for number, outcome in read_results(folder, sweep).items()
        if outcome.sha256 is not None and _digest(folder / outcome.point.file) == outcome.sha256
    }


def begin(folder: Path, plan: Mapping[str, Any], sweep: Sweep, kept: Mapping[int, Outcome], force: bool) -> None:
    """Write the plan and the `kept` outcomes of an earlier run into the folder; to be called while `locked`."""
    with _as_folder_error(folder):
        if force:
            for pattern in SWEEP_FILES:
                for path in folder.glob(pattern):
                    path.unlink()
        for name in (PICTURES, ANIMATIONS):
            (folder / name).mkdir(exist_ok=True)
    write_description(folder, plan)
    write_results(folder, sweep, kept)


def write_description(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan alone."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, "plan": plan}, indent=2)
    write(folder / DESCRIPTION, text.encode() + b"\n")


def read_results(folder: Path, sweep: Sweep) -> dict[int, Outcome]:
    """The journal by point number; lines that are incomplete or of another sweep are ignored."""
    outcomes = {}
    for line in (_read(folder / RESULTS) or b"").split(b"\n")[:-1]:
        outcome = _parse(line, sweep)
        if outcome is not None:
            outcomes[outcome.point.number] = outcome
    return outcomes


def append(folder: Path, sweep: Sweep, outcome: Outcome) -> None:
    """Add one line to the journal; it is on disk when this returns."""
    files.append(folder / RESULTS, _line(sweep, outcome), ELSEWHERE)


def write_results(folder: Path, sweep: Sweep, outcomes: Mapping[int, Outcome]) -> None:
    """Rewrite the whole journal in the order of the plan."""
    lines = [_line(sweep, outcomes[number]) for number in sorted(outcomes)]
    write(folder / RESULTS, b"".join(lines))


def write(path: Path, data: bytes) -> None:
    """Write one of the files of a sweep. Raises IpaError as `files.replace`."""
    files.replace(path, data, ELSEWHERE)


def _read(path: Path) -> bytes | None:
    """The content of a file that may be missing. Raises FolderError when it cannot be read."""
    try:
        return inputs.read_bytes(path, MAX_FILE_BYTES, "a file of a sweep")
    except inputs.MissingFile:
        return None
    except IpaError as error:
        raise FolderError(error.message, "choose another --output, or --force") from error


def _line(sweep: Sweep, outcome: Outcome) -> bytes:
    point, row = outcome.point, outcome.point.row
    entry = {
        "point": point.number,
        "row": row.number,
        "scale": point.scale,
        "reference": sweep.references[row.reference],
        "prompt": sweep.prompts[row.prompt],
        "width": row.width,
        "height": row.height,
        "seed": row.seed,
        **sweep.own_values(row),
        "status": "ok" if outcome.error is None else "failed",
        "file": point.file if outcome.error is None else None,
        "sha256": outcome.sha256,
        "error": outcome.error,
    }
    return json.dumps(entry, allow_nan=False).encode() + b"\n"


def _parse(line: bytes, sweep: Sweep) -> Outcome | None:
    try:
        entry = json.loads(line)
        outcome = Outcome(sweep.points[entry["point"] - 1], entry["sha256"], entry["error"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return outcome if line + b"\n" == _line(sweep, outcome) else None


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(inputs.read_bytes(path, MAX_PICTURE_BYTES, "a picture")).hexdigest()
    except IpaError:
        return None


def _brief(value: Any) -> str:
    """A value of the plan as people write it: scales 0, 0.5, 1, sizes 64x96."""
    if isinstance(value, list):
        pair = len(value) == 2 and all(type(side) is int for side in value)
        text = "x".join(map(str, value)) if pair else ", ".join(map(_brief, value))
    elif value is None:
        text = "none"
    else:
        text = format_scale(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"


@contextmanager
def _as_folder_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderError(f"{folder} cannot be written: {error.strerror or error}", ELSEWHERE) from error
