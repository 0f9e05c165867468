"""What `ipa bench --tune` measured on a GPU, kept beside its graphs: <cache>/graphs-v1/.tuning/<backend>-<gpu>.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipa_cli import backends
from ipa_cli.cache import Store
from ipa_cli.config import Settings
from ipa_cli.engine.store import graph_store
from ipa_cli.errors import IpaError
from ipa_cli.hardware import probe
from ipa_cli.system import files

FOLDER = ".tuning"
MOST = 1 << 16  # bytes


def path(settings: Settings, backend: str, gpu: str) -> Path:
    """The file for a backend on a GPU, given by its slug."""
    return graph_store(settings).graphs / FOLDER / f"{backend}-{gpu}.json"


def kept(settings: Settings, backend: str) -> dict[str, Any] | None:
    """What was kept for the GPU that the settings name: `tuning`, `date`, `kernels`; None where nothing was.

    Raises IpaError for a file that is not as `keep` writes it. What it chooses the backend's `options` check.
    """
    if not backends.get(backend).CAPABILITIES.tunes or settings.device in ("cpu", "mps"):
        return None
    index = settings.device.partition(":")[2]
    gpu = probe.machine(int(index) if index.isdecimal() else 0).gpu
    return None if gpu is None else _read(path(settings, backend, gpu.slug))


def listed(store: Store) -> list[dict[str, Any]]:
    """All that was kept in a store. Raises as `kept`."""
    found = [_read(file) for file in sorted((store.graphs / FOLDER).glob("*.json"))]
    return [one for one in found if one is not None]


def described(found: Mapping[str, Any]) -> str:
    """What was kept, in a line."""
    changed = ", ".join(found["tuning"]) or "the table is best"
    line = f"kernels tuned for {found['gpu']} on {found['date'][:10]}: {changed}"
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(MOST))
        kinds = {"tuning": dict, "date": str, "gpu": str}
        if not isinstance(found, dict) or not all(isinstance(found[name], kind) for name, kind in kinds.items()):
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise IpaError(f"{file} is not as `ipa bench --tune` writes it", "remove it, or tune again") from error
    return found


def copy(settings: Settings, other: Settings, backend: str) -> None:
    """Keep what the cache of `settings` has in the cache of `other` too. Raises as `kept` and `keep`."""
    if (found := kept(settings, backend)) is not None:
        keep(other, backend, found["gpu"], found)


def keep(settings: Settings, backend: str, gpu: str, found: Mapping[str, Any]) -> Path:
    """Keep what was measured; returns the file. Raises IpaError where the cache cannot be written."""
    file = path(settings, backend, gpu)
    files.make_folder(file.parent)
    files.replace(file, (json.dumps(found, indent=1) + "\n").encode())
    return file
