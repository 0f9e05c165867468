"""The trust rule: which compiled graphs are run. A graph is native code, and can do whatever its user can.

A graph is loaded when all of this holds:

1. Nobody else can put it there: its folder and every folder and link on the way to it belong to this user or to root,
   and nobody else may write to them, see `ownership`. Reading does no harm.
2. Its maker is known. Its manifest is signed with this user's key (see `signature`) by `ipa compile`, `ipa cache
   import --trust` or `ipa cache trust`, or with the key of a publisher whom this user trusts (see `publishers`). For
   users other than root a manifest that only root can have written needs no signature: root could replace the
   interpreter anyway. (For root itself, the files of any archive are root's.)
3. Every byte is as the manifest says, and the bytes that were compared are those that are loaded: see `checking`.

What fails 1 or 2 is kept: `chmod` or `ipa cache trust` makes it usable. What fails 3 is damaged, and removed.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ipa_cli.cache import publishers, signature
from ipa_cli.cache.entries import Entry, Refused, Store, read_error
from ipa_cli.system.ownership import other_writer, other_writer_of_folder, writable_by_others


@dataclass(frozen=True)
class Problem:
    """Why a graph, or the whole cache, is not used, and what to type so that it is."""

    message: str
    hint: str


def check_owner(store: Store, folder: Path | None = None) -> None:
    """Raise Refused when others could have put files into the store, or on the way down to `folder`.

    Raises StoreError where this user may not even look.
    """
    folder = folder or store.graphs
    try:
        problem = next(
            (permission_problem(path) for path in (folder, *folder.parents) if _is_there(path, store.root)), None
        )
    except OSError as error:
        raise read_error(store, error) from error
    if problem is not None:
        raise Refused(f"the graph cache is not used: {problem.message}", problem.hint)


def _is_there(path: Path, root: Path) -> bool:
    """Whether the part `path` of a store in `root` is there."""
    if not path.is_relative_to(root):
        return False
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def permission_problem(folder: Path) -> Problem | None:
    """Who else could have put files into `folder`; None when nobody could, or it has gone. Raises OSError."""
    message = _unless_gone(other_writer, folder)
    return Problem(message, _permission_hint(folder)) if message else None


def check_temporary_folder(folder: Path) -> None:
    """Raise Refused when others could exchange what lies in a temporary folder of ours, where code is opened."""
    if (problem := permission_problem(folder)) is not None:
        raise Refused(f"temporary files are not safe: {problem.message}", "set TMPDIR to a folder of your own")


def trust_problem(entry: Entry) -> Problem | None:
    """Why `entry` must not be loaded; None when only its bytes remain to be compared. Nothing is written.

    Raises StoreError for a key that others could know.
    """
    return trust_checker()(entry)


def trust_checker() -> Callable[[Entry], Problem | None]:
    """`trust_problem` for many graphs at one moment: the folders that they share and the key are looked at once."""
    above = cache(lambda folder: _unless_gone(other_writer, Path(folder)))
    key, known = cache(signature.existing_key), cache(publishers.trusted)

    def check(entry: Entry) -> Problem | None:
        message = above(entry.path.rpartition("/")[0]) or _unless_gone(other_writer_of_folder, entry.folder)
        if message is not None:
            return Problem(message, _permission_hint(entry.folder))
        if entry.of_root and os.geteuid() != 0:
            return None
        message = signature.problem(entry.path, entry.text, key())
        if message is None:
            return None
        try:
            published = publishers.problem_of_entry(entry, known)
        except FileNotFoundError:
            return Problem(message, f"`ipa cache trust {entry.id[:8]}` if you trust its maker")
        return Problem(*published) if published else None

    return check


def _unless_gone(ask: Callable[[Path], str | None], folder: Path) -> str | None:
    try:
        return ask(folder)
    except FileNotFoundError:
        return None


def _permission_hint(folder: Path) -> str:
    """What to type when others may write to `folder` or above it."""
    own_folder = "name a folder of your own with --cache-dir"
    places: list[Path] = []
    with suppress(OSError):  # gone meanwhile
        places = writable_by_others(folder)
    return f"`chmod go-w {shlex.join(map(str, places))}`, or {own_folder}" if places else own_folder
