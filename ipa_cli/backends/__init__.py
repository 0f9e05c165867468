"""The backends by name, and what other code asks of them: a capability, what is missing, the digest of their code."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import cast

from ipa_cli.backends import requirements
from ipa_cli.backends.base import LATENT_FACTOR as LATENT_FACTOR
from ipa_cli.backends.base import Backend, TunableBackend
from ipa_cli.errors import IpaError, UsageError, suggest
from ipa_cli.hardware import packages

MODULES = {
    "eager": "ipa_cli.backends.eager",
    "inductor": "ipa_cli.backends.inductor.backend",
    "nexfort": "ipa_cli.backends.onediff.nexfort",
    "oneflow": "ipa_cli.backends.oneflow.backend",
}
AUTO = "auto"  # PREFERRED where a graph is in the cache or worth compiling, else UNCOMPILED
PREFERRED, UNCOMPILED = "inductor", "eager"
ALIASES = {"none": UNCOMPILED}

# Capability -> what is wrong without it, and what to leave out.
_DENIALS = {
    "compiles": ("compiles nothing", ""),
    "masks": ("takes no masks", "leave out --mask"),
    "regions": ("takes no regions", "leave out --region"),
    "step_cache": ("keeps nothing from step to step", "leave out --step-cache"),
    "control_residuals": ("takes no ControlNet", ""),
    "fp8": ("has no fp8", "leave out --precision"),
    "loras": ("does not follow weights that change", "leave out --lora"),
    "offload": ("needs its weights to stay on the GPU", "leave out --offload"),
    "batch": ("draws one picture per call", "leave out --batch-size"),
    "dynamic_sizes": ("compiles for one size only", "leave out --dynamic"),
}
PACKAGE = Path(__file__).parents[1]


def get(name: str) -> Backend:
    """The backend called `name`; raises UsageError when there is none."""
    name = ALIASES.get(name, name)
    if name not in MODULES:
        known = (AUTO, *MODULES)
        raise UsageError(f"unknown backend '{name}'{suggest(name, known)}", f"choose one of {', '.join(known)}")
    return cast(Backend, importlib.import_module(MODULES[name]))


def tunable(name: str) -> TunableBackend:
    """The backend called `name`, one that has `Capabilities.tunes`."""
    return cast(TunableBackend, get(name))


def resolve(name: str) -> str:
    """The backend that a name stands for, or `AUTO`; raises UsageError for an unknown one."""
    if name != AUTO:
        get(name)
    return ALIASES.get(name, name)


def capable(capability: str) -> list[str]:
    """The names of all backends that have a capability."""
    return [name for name in MODULES if getattr(get(name).CAPABILITIES, capability)]


def require(name: str, *capabilities: str) -> None:
    """Raise UsageError unless the backend called `name` has all of these; `AUTO` chooses one that does."""
    for capability in capabilities if name != AUTO else ():
        if getattr(get(name).CAPABILITIES, capability):
            continue
        denial, leave_out = _DENIALS[capability]
        others = f"use --backend {' or '.join(capable(capability))}"
        raise UsageError(f"the backend {name} {denial}", f"{leave_out}, or {others}" if leave_out else others)


def require_device(name: str, device: str) -> None:
    """Raise UsageError unless the backend called `name` runs on this type of device, as torch names it."""
    known = (device,) if name == AUTO else get(name).CAPABILITIES.devices
    if device not in known:
        raise UsageError(
            f"the backend {name} does not run on {device}",
            f"use --device {' or '.join(known)}, or --backend {UNCOMPILED}",
        )


def require_dtype(name: str, dtype: str) -> None:
    """Raise UsageError unless the backend called `name` computes in this dtype, as torch names it."""
    known = (dtype,) if name == AUTO else get(name).CAPABILITIES.dtypes
    if dtype not in known:
        raise UsageError(
            f"the backend {name} does not compute in {dtype}",
            f"use --dtype {' or '.join(known)}, or --backend {UNCOMPILED}",
        )


def problem(name: str, versions: Mapping[str, str | None] | None = None) -> IpaError | None:
    """What the backend called `name` lacks here, or among `versions`; None when it can work."""
    needs = get(name).REQUIREMENTS
    return requirements.problem(name, needs, installed() if versions is None else versions)


def installed() -> dict[str, str | None]:
    """The versions of `packages.installed`, and of every other package that a backend needs."""
    return packages.installed(one.name for name in MODULES for one in get(name).REQUIREMENTS.packages)


@lru_cache
def code(name: str) -> str:
    """A digest of our own part in a backend's graphs, "" for one that keeps none: all files of its code folders."""
    folders = get(name).CAPABILITIES.code_folders if name in MODULES else ()
    return digest(PACKAGE, folders) if folders else ""


def digest(root: Path, folders: tuple[str, ...]) -> str:
    """A digest of the names and contents of all files in these folders of `root`."""
    hashed = hashlib.sha256()
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*")):
        if path.is_dir() or path.parent.name == "__pycache__":
            continue
        for part in (path.relative_to(root).as_posix().encode(), path.read_bytes()):
            hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.hexdigest()[:16]
