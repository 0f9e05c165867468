"""The trust rule: which compiled graphs are run. A graph is native code, and can do whatever its user can.

A graph is loaded when all of this holds:

1. Nobody else can put it there: its folder and every folder and link on the way to it belong to this user or to root,
   and nobody else may write to them, see `ownership`. Reading does no harm.
2. Its maker is known. Beside its manifest lies a proof made with this user's key (see `proof`), by `ipa compile`,
   `ipa cache import --trust` or `ipa cache trust`. For other users than root a manifest that only root can have
   written needs none: who owns the interpreter need not prove anything. (As root, files of any archive are root's.)
3. Every byte is as the manifest says, and the bytes that were compared are those that are loaded: see `checking`.

What fails 1 or 2 stays where it is, for `chmod` or `ipa cache trust` make it usable; what fails 3 is lost, and removed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ipa_cli.cache import signature
from ipa_cli.cache.entries import Entry, Refused, Store, read_error
from ipa_cli.system.ownership import foreign, foreign_itself


@dataclass(frozen=True)
class Problem:
    """Why a graph, or a whole cache, is not used, in words; and what to type for it to be."""

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
    return _problem(foreign, folder)


def check_temporary_folder(folder: Path) -> None:
    """Raise Refused when others could exchange what lies in a temporary folder of ours, where code is opened."""
    if (problem := permission_problem(folder)) is not None:
        raise Refused(f"temporary files are not safe: {problem.message}", "let TMPDIR name a folder that is yours")


def trust_problem(entry: Entry) -> Problem | None:
    """Why `entry` is not to be loaded; None when only its bytes are still to be compared. Nothing is written.

    Raises StoreError for a key that others could know.
    """
    return trust_checker()(entry)


def trust_checker() -> Callable[[Entry], Problem | None]:
    """`obstacle` for many graphs at one moment: the folders that they share and the key are looked at once."""
    above, key = cache(lambda folder: permission_problem(Path(folder))), cache(signature.existing_key)

    def of(entry: Entry) -> Problem | None:
        found = above(entry.path.rpartition("/")[0]) or _problem(foreign_itself, entry.folder)
        if found is not None or (entry.of_root and os.geteuid() != 0):
            return found
        words = signature.problem(entry.path, entry.text, key())
        return Problem(words, f"`ipa cache trust {entry.id[:8]}` if you trust its maker") if words else None

    return of


def _problem(ask: Callable[[Path], str | None], folder: Path) -> Problem | None:
    try:
        words = ask(folder)
    except FileNotFoundError:
        return None
    hint = "`chmod go-w` it if it is yours, or name a folder of your own with --cache-dir"
    return Problem(words, hint) if words else None
