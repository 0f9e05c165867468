"""What `ipa bench --tune` measured on a GPU, kept beside its graphs: <cache>/graphs-v1/.tuning/<backend>-<gpu>.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_cli import backends
from ipa_cli.cache import Store
from ipa_cli.config import Settings
from ipa_cli.engine.store import graph_store
from ipa_cli.errors import IpaError
from ipa_cli.hardware import probe
from ipa_cli.result import Reporter
from ipa_cli.system import files

FOLDER = ".tuning"
MOST = 1 << 16  # bytes


@dataclass(frozen=True)
class TuningFile:
    """A file of a store: what it keeps, or why that cannot be used. `size` in bytes."""

    path: Path
    size: int
    found: Mapping[str, Any] | None
    damage: str | None = None

    @property
    def backend(self) -> str:
        return next((name for name in backends.MODULES if self.path.name.startswith(f"{name}-")), "")

    def to_json(self) -> dict[str, Any]:
        """As `ipa cache ls --json` has it."""
        return {**(self.found or {}), "file": str(self.path), "damage": self.damage}

    def __str__(self) -> str:
        line = f"damaged: {self.damage}" if self.found is None else described(self.found)
        return "".join(sign if sign.isprintable() else "?" for sign in line)


def path(settings: Settings, backend: str, gpu: str) -> Path:
    """The file for a backend on a GPU, given by its slug."""
    return graph_store(settings).graphs / FOLDER / f"{backend}-{gpu}.json"


def kept(settings: Settings, backend: str) -> dict[str, Any] | None:
    """What was kept for the GPU that the settings name: `tuning`, `date`, `kernels`; None where nothing was.

    Raises IpaError for a file that is not as `keep` writes it, or chooses what the backend does not have for this GPU.
    """
    if not backends.get(backend).CAPABILITIES.tunes or settings.device in ("cpu", "mps"):
        return None
    index = settings.device.partition(":")[2]
    gpu = probe.machine(int(index) if index.isdecimal() else 0).gpu
    if gpu is None or (found := _read(file := path(settings, backend, gpu.slug))) is None:
        return None
    try:
        backends.tunable(backend).check_tuning(found["tuning"], gpu.capability)
    except IpaError as error:
        raise _damaged(file) from error
    return found


def usable(settings: Settings, backend: str) -> dict[str, Any] | None:
    """What `kept` finds; None where that is damaged, see `warn`."""
    try:
        return kept(settings, backend)
    except IpaError:
        return None


def warn(settings: Settings, backend: str, reporter: Reporter) -> None:
    """Warn of a damaged file, in whose place the table's choices are used."""
    try:
        kept(settings, backend)
    except IpaError as error:
        reporter.warn(f"{error.message}, so kernels run as they do untuned; {error.hint}")


def listed(store: Store) -> list[TuningFile]:
    """All files of a store, damaged ones and links that lead nowhere with the reason."""
    found = sorted((store.graphs / FOLDER).glob("*.json"))
    return [_listed(file) for file in found if file.is_symlink() or file.is_file()]


def remove(listed: Iterable[TuningFile]) -> None:
    """Remove files. Raises IpaError where that is not permitted."""
    for one in listed:
        try:
            one.path.unlink(missing_ok=True)
        except OSError as error:
            raise IpaError(
                f"cannot remove {one.path}: {error.strerror}", "check the permissions of its folder"
            ) from error


def described(found: Mapping[str, Any]) -> str:
    """What was kept, in a line."""
    changed = ", ".join(found["tuning"]) or "the table is best"
    return f"kernels tuned for {found['gpu']} on {found['date'][:10]}: {changed}"


def _listed(file: Path) -> TuningFile:
    size = file.lstat().st_size
    try:
        if (found := _read(file)) is None:
            raise _damaged(file)
        return TuningFile(file, size, found)
    except IpaError as error:
        return TuningFile(file, size, None, error.message)


def _damaged(file: Path) -> IpaError:
    return IpaError(
        f"{file} is not as `ipa bench --tune` writes it", "`ipa cache clear --stale` removes it, or tune again"
    )


def _read(file: Path) -> dict[str, Any] | None:
    if file.exists() and not file.is_file():  # a named pipe would be waited for
        raise _damaged(file)
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(MOST))
        kinds = {"tuning": dict, "date": str, "gpu": str}
        if not isinstance(found, dict) or not all(isinstance(found[name], kind) for name, kind in kinds.items()):
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise _damaged(file) from error
    return found


def copy(settings: Settings, other: Settings, backend: str) -> None:
    """Keep what the cache of `settings` has, unless it is damaged, in the cache of `other` too. Raises as `keep`."""
    if (found := usable(settings, backend)) is not None:
        keep(other, backend, found["gpu"], found)


def keep(settings: Settings, backend: str, gpu: str, found: Mapping[str, Any]) -> Path:
    """Keep what was measured; returns the file. Raises IpaError where the cache cannot be written."""
    file = path(settings, backend, gpu)
    files.make_folder(file.parent)
    files.replace(file, (json.dumps(found, indent=1) + "\n").encode())
    return file
