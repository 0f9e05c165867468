"""The backends to measure, with their options and Pythons, as the command line names them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_cli import backends
from ipa_cli.config import expanded
from ipa_cli.errors import IpaError, UsageError, suggest
from ipa_cli.models.location import is_file, is_folder

UNCOMPILED = f"{backends.UNCOMPILED}:cuda_graph=false"


@dataclass(frozen=True)
class BackendSpec:
    """A backend as `--backends` names it: `options` as `--compile-options` takes them, `python` None for this one."""

    text: str
    backend: str
    options: str | None = None
    python: str | None = None


def parse_specs(texts: Sequence[str]) -> tuple[BackendSpec, ...]:
    """Backends from texts such as "eager:cuda_graph=false,inductor:fast,nexfort".

    What follows the colon is a preset, JSON, or `name=value`, several with commas between them. Raises
    UsageError for an unknown backend or one named twice.
    """
    found: list[str] = []
    for piece in (piece.strip() for text in texts for piece in _split(text)):
        is_more = found and re.match(r"\w+\s*=", piece) and ":" in found[-1]
        if is_more:
            found[-1] += f",{piece}"
        elif piece:
            found.append(piece)
    if not found:
        raise UsageError("no backend is named", f"choose from {', '.join(backends.MODULES)}")
    double = next((text for text in found if found.count(text) > 1), None)
    if double is not None:
        raise UsageError(f"the backend {double} is named twice", "--runs says how often each is measured")
    return tuple(_spec(text) for text in found)


def with_pythons(specs: Sequence[BackendSpec], texts: Sequence[str]) -> tuple[BackendSpec, ...]:
    """`specs` with the Pythons from texts such as "nexfort=/envs/nexfort", an interpreter or an environment's folder.

    Raises UsageError for a path that is neither, and for a backend that is not measured.
    """
    chosen: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.rpartition("=")
        if not equals or not path:
            raise UsageError(
                f"--python {text}: expected a backend and a path", "write --python nexfort=/path/to/bin/python"
            )
        if name not in {known for spec in specs for known in (spec.text, spec.backend)}:
            raise UsageError(
                f"--python names {name}, which is not measured", f"--backends {','.join(s.text for s in specs)},{name}"
            )
        chosen[name] = _interpreter(path)
    return tuple(
        BackendSpec(spec.text, spec.backend, spec.options, chosen.get(spec.text, chosen.get(spec.backend)))
        for spec in specs
    )


def with_range(specs: Sequence[BackendSpec], span: tuple[int, int]) -> tuple[BackendSpec, ...]:
    """`specs` with graphs for all sides within `span` pixels, where there is something to compile."""

    def dynamic(spec: BackendSpec) -> BackendSpec:
        if not backends.get(spec.backend).CAPABILITIES.compiles:
            return spec
        backends.require(spec.backend, "dynamic_sizes")
        given = spec.options or "{}"
        options = json.loads(given) if given.startswith("{") else {"preset": given}
        return BackendSpec(spec.text, spec.backend, json.dumps({**options, "dynamic": list(span)}), spec.python)

    return tuple(map(dynamic, specs))


def is_uncompiled(spec: BackendSpec) -> bool:
    """Whether this is the UNet as diffusers calls it, neither compiled nor in a CUDA graph."""
    return spec.backend == backends.UNCOMPILED and options(spec).get("cuda_graph") is False


def options(spec: BackendSpec) -> Mapping[str, Any]:
    """The options given by name, without those of a preset."""
    found = _value(spec.options or "{}")
    return found if isinstance(found, dict) else {}


def _spec(text: str) -> BackendSpec:
    backend, colon, given = text.partition(":")
    if backend not in backends.MODULES:
        known = tuple(backends.MODULES)
        raise UsageError(f"unknown backend '{backend}'{suggest(backend, known)}", f"choose from {', '.join(known)}")
    given = given.strip()
    if colon and not given:
        raise UsageError(f"{text} names no options", f"leave out the colon, or write {backend}:name=value")
    if "=" in given and not given.startswith("{"):
        pairs = (pair.partition("=") for pair in _split(given))
        given = json.dumps({name.strip(): _value(value.strip()) for name, _, value in pairs})
    return BackendSpec(text, backend, given or None)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _split(text: str) -> list[str]:
    """The pieces between commas that stand outside brackets and quotes."""
    pieces, depth, quoted = [""], 0, False
    for sign in text:
        quoted ^= sign == '"'
        depth += 0 if quoted else (sign in "[{") - (sign in "]}")
        if sign == "," and depth <= 0 and not quoted:
            pieces.append("")
        else:
            pieces[-1] += sign
    return pieces


def _interpreter(text: str) -> str:
    path = expanded(Path(text))
    candidates = (path / "bin" / "python", path / "Scripts" / "python.exe") if is_folder(path) else (path,)
    for candidate in candidates:
        if is_file(candidate):
            return str(candidate.absolute())
    raise IpaError(f"there is no Python at {path}", "name an interpreter, or the folder of a virtual environment")
