"""Who could have written a file: the one rule for everything that is trusted because of where it lies.

A path is ours alone when it, and every folder and link on the way to it, belongs to this user or to root, and nobody
else may write there. To be readable is fine. Above the path itself, a folder that all may write to is fine as well when
it is sticky, as `/tmp` is: nobody can replace what is not theirs in it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MOST_LINKS = 40  # as Linux counts


def foreign(path: Path) -> str | None:
    """Who else could have written what `path` leads to, in words ("/a belongs to bob"), or None. Raises OSError."""
    here, todo, links = Path("/"), list(reversed(path.absolute().parts[1:])), 0
    while todo:
        part = todo.pop()
        place = here.parent if part == ".." else here / part
        about = place.lstat()
        if problem := _problem(place, about, on_the_way=True):
            return problem
        if not stat.S_ISLNK(about.st_mode):
            here = place
            continue
        links += 1
        if links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = place.readlink()
        here = Path("/") if target.is_absolute() else here
        todo += reversed(target.parts[target.is_absolute() :])
    return _problem(Path("/"), Path("/").lstat(), on_the_way=True) or _problem(here, here.lstat())


def foreign_itself(path: Path) -> str | None:
    """The same of `path` alone, where the way to it is known to be ours."""
    return _problem(path, path.lstat())


def _problem(place: Path, about: os.stat_result, on_the_way: bool = False) -> str | None:
    if about.st_uid not in (0, os.geteuid()):
        return f"{place} belongs to {_user(about.st_uid)}"
    if stat.S_ISLNK(about.st_mode):  # a link has no permissions of its own
        return None
    sticky = stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX and on_the_way
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
