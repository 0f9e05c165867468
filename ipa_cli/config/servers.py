"""Running servers of this user: each keeps a small file in the user's runtime folder, which nobody else can read."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ipa_cli.errors import IpaError
from ipa_cli.system import files, ownership
from ipa_cli.system.inputs import read_bytes

MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class Running:
    """A server that listens; `started` tells its process from a later one with the same number."""

    url: str
    token: str | None
    model: str
    pid: int
    started: float


@contextmanager
def announced(folder: Path | None, url: str, token: str | None, model: str) -> Iterator[None]:
    """This process as a server that `running` finds while the block lasts; `folder` is what `own_folder` gives.

    Raises IpaError where the user has no private folder for it.
    """
    if folder is None:
        raise IpaError("there is no private runtime folder", "set XDG_RUNTIME_DIR to a folder of yours with mode 0700")
    path, pid = folder / f"{os.getpid()}.json", os.getpid()
    one = Running(url, token, model, pid, _started(pid) or 0.0)
    files.write_private(path, json.dumps(asdict(one)).encode(), "set XDG_RUNTIME_DIR to another folder")
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()


def running() -> list[Running]:
    """The servers of this user that are there; files of others that are gone are removed."""
    folder = own_folder(make=False)
    found = []
    for path in sorted(folder.glob("*.json")) if folder else ():
        with suppress(OSError, IpaError, ValueError, TypeError):
            one = Running(**json.loads(read_bytes(path, MOST_BYTES, "a server's file")))
            if ownership.other_writer_of_folder(path) is None and _started(one.pid) == one.started:
                found.append(one)
            else:
                path.unlink()
    return found


def own_folder(make: bool = True) -> Path | None:
    """The folder of these files; None where there is none that is this user's alone.

    Without XDG_RUNTIME_DIR and /run/user it is among temporary files: look it up before they are redirected.
    """
    import platformdirs

    with suppress(OSError, RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns of a folder that it leaves out
        folder = Path(platformdirs.user_runtime_dir("ipa")) / "servers"
        if make:
            files.make_private(folder)
        if folder.is_dir() and ownership.other_writer(folder) is None:
            return folder
    return None


def _started(pid: int) -> float | None:
    """When a process was started, in the system's own count; None where there is none."""
    if Path("/proc/self/stat").exists():
        try:  # ticks since the start of the system, which no change of the clock moves
            return float(
                Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
            )
        except (OSError, LookupError):
            return None
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None
