"""Where a batch is written: a folder on disk, or one that fsspec reaches, such as s3://bucket/folder."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ipa_cli.config import expanded
from ipa_cli.config.privacy import public_name, public_text
from ipa_cli.errors import RESUME_HINT, IpaError, UsageError
from ipa_cli.system import files, inputs, remote

OTHER = "choose another --output"
MOST_BYTES = 512_000_000  # of a file that is read back
LINE_BYTES = 1_000_000
TRIES = 4
TRYING = 120.0  # seconds after which none is begun any more
REST = 60.0  # seconds for which an output that failed is not asked again: pictures may be waiting to be written to it
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z0-9+.-]+)*://")
_LACKS_A_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/(?!/)")  # s3:/bucket, which would be a folder named "s3:"
_Value = TypeVar("_Value")


class OutputUnusable(IpaError):
    """The output cannot be read or written; nothing that is drawn could be kept."""


class Output(Protocol):
    """A folder or URL with files by their names, which have slashes."""

    @property
    def name(self) -> str:
        """The folder or URL, without secrets."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file completely or not at all, in place of one of that name. Raises IpaError."""

    def write_lines(self, name: str, lines: Iterable[bytes]) -> None:
        """Write a file a line at a time, as `write`."""

    def append(self, name: str, data: bytes) -> bool:
        """Add to the end of a file; False where files are only written whole. Raises IpaError."""

    def read(self, name: str) -> bytes | None:
        """A file's content, None where there is none. Raises IpaError."""

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file; none where there is no file. Raises IpaError."""

    def has(self, name: str) -> bool:
        """Whether a file is there; True where asking takes a request."""

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder, in order, each with the folder."""

    def remove(self, folder: str) -> None:
        """Remove a folder of files, where there is one."""

    def for_reading(self, names: Sequence[str]) -> tuple[list[str], Any]:
        """Paths of files, and the fsspec file system in which other machines find them; None is theirs."""


@dataclass(frozen=True)
class Folder:
    """A folder on disk."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def write(self, name: str, data: bytes) -> None:
        files.replace(self._place(name), data, RESUME_HINT)

    def write_lines(self, name: str, lines: Iterable[bytes]) -> None:
        with files.replacing(self._place(name), RESUME_HINT) as file:
            file.writelines(lines)

    def append(self, name: str, data: bytes) -> bool:
        files.append(self._place(name), data, RESUME_HINT)
        return True

    def _place(self, name: str) -> Path:
        """The path of a file, in folders that exist by then. Raises IpaError where one of these is a link."""
        path = self.path / name
        for folder in reversed(path.parents[: name.count("/")]):
            files.make_folder(folder, OTHER)
        return path

    def lines(self, name: str) -> Iterator[bytes]:
        with suppress(inputs.MissingFile):
            yield from inputs.lines(self.path / name, LINE_BYTES, "a file of a batch")

    def read(self, name: str) -> bytes | None:
        with suppress(inputs.MissingFile):
            return inputs.read_bytes(self.path / name, MOST_BYTES, "a file of a batch")
        return None

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def names(self, folder: str) -> list[str]:
        path = self.path / folder
        with suppress(FileNotFoundError):
            try:
                return sorted(f"{folder}/{one}" for one in os.listdir(path))  # noqa: PTH208
            except NotADirectoryError as error:
                raise IpaError(f"{path} is not a folder", OTHER) from error
            except PermissionError as error:
                raise IpaError(f"{path} cannot be read: {error.strerror}", OTHER) from error
        return []

    def remove(self, folder: str) -> None:
        import shutil

        shutil.rmtree(self.path / folder, ignore_errors=True)

    def for_reading(self, names: Sequence[str]) -> tuple[list[str], Any]:
        return [str((self.path / name).absolute()) for name in names], None


class Remote:
    """A folder that fsspec reaches by a URL; a request that fails is made again before it counts."""

    def __init__(self, url: str):
        self.name: str = public_name(url).rstrip("/")
        self._failed: tuple[float, OutputUnusable] | None = None
        try:
            self._files, self._root = remote.opened(url.rstrip("/"))
        except IpaError as error:
            raise IpaError(f"{self.name} {error.message}", error.hint) from error
        except ValueError as error:
            raise UsageError(f"{self.name}: {error}", "--output s3://bucket/folder") from error
        except Exception as error:  # of whichever library: some connect, or look for the folder
            failure = remote.failure(error)
            hint = failure.hint or "--output s3://bucket/folder"
            raise OutputUnusable(f"{self.name} cannot be opened: {public_text(failure.said)}", hint) from error

    def write(self, name: str, data: bytes) -> None:
        def write() -> None:
            path = f"{self._root}/{name}"
            if self._makes_folders:
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, data)

        self._tried("written", write)

    def write_lines(self, name: str, lines: Iterable[bytes]) -> None:
        def write() -> None:
            file = self._files.open(f"{self._root}/{name}", "wb")
            try:
                for line in lines:
                    file.write(line)
                file.close()
            except BaseException:
                with suppress(Exception):
                    remote.discard(file)
                raise

        self._tried("written", write, tries=1)

    def append(self, name: str, data: bytes) -> bool:
        return False

    def lines(self, name: str) -> Iterator[bytes]:
        yield from (self.read(name) or b"").splitlines(keepends=True)

    def read(self, name: str) -> bytes | None:
        def read() -> bytes | None:
            try:
                return self._files.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None

        return self._tried("read", read)

    def has(self, name: str) -> bool:
        return True

    def names(self, folder: str) -> list[str]:
        def names() -> list[str]:
            try:
                found = self._files.ls(f"{self._root}/{folder}", detail=False, refresh=True)
            except FileNotFoundError:
                return []
            return sorted(f"{folder}/{one.rstrip('/').rpartition('/')[2]}" for one in found)

        return self._tried("read", names)

    def remove(self, folder: str) -> None:
        with suppress(Exception):  # what is left there does no harm
            self._files.rm(f"{self._root}/{folder}", recursive=True)

    def for_reading(self, names: Sequence[str]) -> tuple[list[str], Any]:
        return [f"{self._root}/{name}" for name in names], self._files

    @property
    def _makes_folders(self) -> bool:
        """Buckets have no folders, and s3fs would look for the bucket before each file."""
        protocol = self._files.protocol
        return not {"s3", "s3a", "gs", "gcs"} & set([protocol] if isinstance(protocol, str) else protocol)

    def _tried(self, done: str, work: Callable[[], _Value], tries: int = TRIES) -> _Value:
        began = time.monotonic()
        if self._failed is not None and began - self._failed[0] < REST:
            raise self._failed[1]
        for left in reversed(range(tries)):
            try:
                return work()
            except Exception as error:
                failure = remote.failure(error)
                if not left or failure.final or time.monotonic() - began > TRYING:
                    said = public_text(failure.said)
                    unusable = OutputUnusable(f"{self.name} cannot be {done}: {said}", failure.hint or RESUME_HINT)
                    self._failed = time.monotonic(), unusable
                    raise unusable from error
                time.sleep((tries - left) * random.uniform(0.5, 1))
        raise AssertionError("unreachable")


def of(text: str) -> Output:
    """The folder or URL that `--output` names. Raises UsageError and IpaError."""
    if not text or "\0" in text:
        raise UsageError(f"--output {text!r} is not a folder", "--output drawn")
    if text.lower().startswith(("file://", "local://")):
        text = text.partition("://")[2]
        if not text.startswith("/"):
            raise UsageError(f"--output file://{text} is not the whole path of a folder", "--output file:///a/folder")
    elif _LACKS_A_SLASH.match(text):
        hint = "--output s3://bucket/folder, or ./ before the name of a folder"
        raise UsageError(f"--output {public_name(text)}: the address lacks a slash", hint)
    if remote.scheme(text).lower() in remote.READ_ONLY:
        raise UsageError(f"--output {public_name(text)}: a web server is only read", "--output s3://bucket/folder")
    if _URL.match(text) and not text.partition("://")[2].strip("/"):
        raise UsageError(f"--output {public_name(text)} names no bucket or folder", "--output s3://bucket/folder")
    return Remote(text) if _URL.match(text) else Folder(expanded(Path(text)))
