"""Write files completely or not at all, never through a link, and replace only regular files.

Data goes into a new file with a random name in the same folder, is synced, and then renamed. A folder, device, pipe or
link of that name is never replaced: in a folder that somebody else made, a link may lead to a file of the user. Missing
folders are created.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, TextIO

from ipa_cli.errors import IpaError, UsageError

OTHER_OUTPUT = "choose another place with --output"
HANDED = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")  # links that lead to what the shell has opened
UNFINISHED = ".ipa-*.tmp"  # left behind only when a write is killed

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def write(path: Path, data: bytes, force: bool, elsewhere: str = OTHER_OUTPUT) -> Path:
    """Write a file, in place of one of that name with `force`, else as `create` does; returns its path."""
    if force:
        replace(path, data, elsewhere)
        return path
    return create(path, data, elsewhere)


def replace(path: Path, data: bytes, elsewhere: str = OTHER_OUTPUT) -> None:
    """Write a file, in place of one that is there; it keeps that one's permissions.

    Raises IpaError when the folder is read-only, the disk is full, or something else than a regular file has that name;
    `elsewhere` is its hint.
    """
    with replacing(path, elsewhere) as file:
        file.write(data)


@contextmanager
def replacing(path: Path, elsewhere: str = OTHER_OUTPUT, overwrite: bool = True) -> Iterator[IO[bytes]]:
    """Yields a file that becomes `path` when the block ends without an exception; else nothing changes.

    Raises IpaError as `replace`, and without `overwrite` when there is anything of that name.
    """
    with _translate_errors(path, elsewhere):
        before = _plain(path)
        with _beside(path) as (file, temporary):
            yield file
            if before is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode) & 0o777)
            _sync(file)
            _plain(path)
            if overwrite:
                temporary.replace(path)
            else:
                _rename_without_overwriting(temporary, path)


def create(path: Path, data: bytes, elsewhere: str = OTHER_OUTPUT) -> Path:
    """Write a new file and return its path: a taken name gets a number, also when another process takes it meanwhile.

    Raises IpaError as `replace`.
    """
    with _translate_errors(path, elsewhere), _beside(path) as (file, temporary):
        file.write(data)
        _sync(file)
        for candidate in numbered(path):
            with suppress(FileExistsError):
                _rename_without_overwriting(temporary, candidate)
                return candidate
    raise AssertionError("unreachable")


def write_private(path: Path, data: bytes, elsewhere: str = OTHER_OUTPUT) -> None:
    """Write a file that this user alone can read, in place of a regular one; raises as `replace`."""
    with _translate_errors(path, elsewhere):
        make_private(path.parent)
        with _beside(path, 0o600) as (file, temporary):
            file.write(data)
            _sync(file)
            _plain(path)
            temporary.replace(path)


def append(path: Path, data: bytes, elsewhere: str = OTHER_OUTPUT) -> None:
    """Append to a regular file or create it; `data` is synced when this returns. Raises IpaError."""
    with _translate_errors(path, elsewhere):
        _plain(path)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(path, flags, 0o666), "ab") as file:
            file.write(data)
            _sync(file)


@contextmanager
def appending(path: Path) -> Iterator[IO[bytes]]:
    """Yields a private regular file to append to, created if necessary, in a folder of ours; synced. Raises OSError."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(path, flags, 0o600), "r+b") as file:
        file.seek(0, os.SEEK_END)
        yield file
        _sync(file)


def open_log(path: Path, elsewhere: str = OTHER_OUTPUT) -> TextIO:
    """A text file to append to line by line; also a device, a pipe with a reader, or a file that the shell has opened.

    Raises IpaError as `append`.
    """
    handed = str(path).startswith(HANDED)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | (0 if handed else os.O_NOFOLLOW)
    with _translate_errors(path, elsewhere):
        if not handed and kind(path) == "a link":
            raise IpaError(f"{path} is a link: files are not written through it", elsewhere)
        descriptor = os.open(path, flags, 0o666)  # else it would wait for a reader of a pipe
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace")


def check_writable(path: Path, replacing: bool = False, elsewhere: str = OTHER_OUTPUT) -> None:
    """Raise IpaError as `create`, or when `replacing` as `replace` would, before the long work; leaves no file."""
    with _translate_errors(path, elsewhere):
        if replacing:
            _plain(path)
        there = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        with _beside(there / path.name):
            pass


def make_folder(folder: Path, elsewhere: str = OTHER_OUTPUT) -> None:
    """Create a folder with its parents. Raises IpaError when it is a link, or cannot be created."""
    with _translate_errors(folder, elsewhere):
        _make(folder)
        if folder.is_symlink():
            raise IpaError(f"{folder} is a link: files are not written through it", elsewhere)


def make_own_folder(folder: Path, elsewhere: str = OTHER_OUTPUT) -> None:
    """As `make_folder`, for files that are trusted because of where they lie: see `make_private`."""
    with _translate_errors(folder, elsewhere):
        make_private(folder)
    make_folder(folder, elsewhere)


def make_private(folder: Path) -> None:
    """Create a folder with its parents, each mode 0700. Raises OSError.

    Under a umask of 0, as in some containers, or of 002 in a group of many, others could write to them else.
    """
    for missing in reversed([one for one in (folder, *folder.parents) if not os.path.lexists(one)]):
        missing.mkdir(mode=0o700, exist_ok=True)


def numbered(path: Path) -> Iterator[Path]:
    """`path` and then its names with numbers added: cat.png, cat-1.png, cat-2.png."""
    yield path
    for number in count(1):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def kind(path: Path) -> str | None:
    """What is there: "a link", "a device", …; None for a regular file or nothing."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "not a regular file")


def _plain(path: Path) -> os.stat_result | None:
    """The status of the regular file at `path`, None when nothing is there. Raises IpaError for anything else."""
    found = kind(path)
    if found is not None:
        raise IpaError(f"{path} is {found}: only regular files are replaced", "name another file")
    with suppress(FileNotFoundError, NotADirectoryError):
        return path.lstat()
    return None


@contextmanager
def _beside(path: Path, mode: int = 0o666) -> Iterator[tuple[IO[bytes], Path]]:
    _make(path.parent)
    temporary = path.parent / f".ipa-{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            yield file, temporary
    finally:
        with suppress(OSError):  # or it would hide why the write failed
            temporary.unlink()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _rename_without_overwriting(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # exFAT and some network folders have no hard links: claim the name, then move onto the claim.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            temporary.replace(path)
        except BaseException:
            path.unlink()
            raise


@contextmanager
def _translate_errors(path: Path, elsewhere: str) -> Iterator[None]:
    if "\0" in str(path):
        raise UsageError(f"{str(path)!r} is not a file name", elsewhere)
    try:
        yield
    except UnicodeEncodeError as error:
        raise IpaError(
            f"{str(path)!a} cannot be written where names of files are {error.encoding}", "set PYTHONUTF8=1"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise IpaError(f"no space left on the disk of {path}", f"free some space, or {elsewhere}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise IpaError(f"the folder {path.parent} cannot be written to", elsewhere) from error
        raise IpaError(f"{path} cannot be written: {error.strerror or error}", elsewhere) from error
