"""Who could have written a file: the one rule for everything that is trusted because of where it lies.

A path is safe when it, and every folder and link on the way to it, belongs to this user or to root, and nobody else may
write there. Being readable is fine. A sticky folder on the way, such as `/tmp`, may be writable by all: nobody can
replace other people's files in it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

MAX_LINKS = 40  # as Linux counts


def other_writer(path: Path) -> str | None:
    """Who else could have written what `path` leads to: "/a belongs to bob"; None when nobody. Raises OSError."""
    return next(filter(None, (_problem(*visited) for visited in _visit(path))), None)


def other_writer_of_folder(path: Path) -> str | None:
    """As `other_writer`, of `path` alone: for when the way to it is known to be safe."""
    return _problem(path, path.lstat())


def writable_by_others(path: Path) -> list[Path]:
    """The places on the way to `path` that `chmod go-w` makes safe; none where that is not enough. Raises OSError.

    It is not enough where a place belongs to another user, whose it is to change.
    """
    places = {place: about for place, about, passing in _visit(path) if _problem(place, about, passing)}
    return list(places) if all(about.st_uid == os.geteuid() for about in places.values()) else []


def _visit(path: Path) -> Iterator[tuple[Path, os.stat_result, bool]]:
    """Every folder and link from the root to what `path` leads to; with its status, and whether the way goes on."""
    here, todo, links = Path("/"), list(reversed(path.absolute().parts[1:])), 0
    yield here, here.lstat(), bool(todo)
    while todo:
        part = todo.pop()
        place = here.parent if part == ".." else here / part
        about = place.lstat()
        if not stat.S_ISLNK(about.st_mode):
            here = place
            yield place, about, bool(todo)
            continue
        yield place, about, True
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = place.readlink()
        here = Path("/") if target.is_absolute() else here
        todo += reversed(target.parts[target.is_absolute() :])
        if not todo:  # the link leads to the folder that it is in, or to the root
            yield here, here.lstat(), False


def _problem(place: Path, about: os.stat_result, passing: bool = False) -> str | None:
    if about.st_uid not in (0, os.geteuid()):
        return f"{place} belongs to {_user(about.st_uid)}"
    if stat.S_ISLNK(about.st_mode):  # a link has no permissions of its own
        return None
    sticky = stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX and passing
    if about.st_mode & stat.S_IWOTH and not sticky:
        return f"everybody may write to {place}"
    if about.st_mode & stat.S_IWGRP and not sticky and not _of_one_user(place, about):
        return f"a group may write to {place}"
    return None


def _of_one_user(place: Path, about: os.stat_result) -> bool:
    """Whether the group of a file is its owner's alone, as most systems make one for each user.

    With an access control list the group's bits stand for others too.
    """
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(about.st_uid), grp.getgrgid(about.st_gid)
    except KeyError:
        return False
    alone = group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    return alone and "system.posix_acl_access" not in getattr(os, "listxattr", lambda path: ())(place)


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"another user (uid {number})"
