"""What is measured: backends with their options and Pythons, and the order of the processes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from ipa_cli import backends
from ipa_cli.config import expanded
from ipa_cli.errors import IpaError, UsageError, suggest
from ipa_cli.models.location import is_file, is_folder

Kind = Literal["run", "reference"]

PLAIN = "eager:cuda_graph=false"


@dataclass(frozen=True)
class Spec:
    """A backend as `--backends` names it: `options` as `--compile-options` takes them, `python` None for this one."""

    text: str
    backend: str
    options: str | None = None
    python: str | None = None


@dataclass(frozen=True)
class Part:
    """One process that draws: a run for its column of the table, a reference for others to be compared with."""

    spec: Spec
    kind: Kind
    number: int

    def __str__(self) -> str:
        if self.kind == "run":
            return f"{self.spec.text}, run {self.number}"
        return f"reference, uncompiled{f' in {self.spec.python}' if self.spec.python else ''}"


def parse_specs(texts: Sequence[str]) -> tuple[Spec, ...]:
    """Backends from texts such as "eager:cuda_graph=false,inductor:max,nexfort".

    What stands behind the colon is a preset, JSON, or `name=value`, several with commas between them. Raises
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


def with_pythons(specs: Sequence[Spec], texts: Sequence[str]) -> tuple[Spec, ...]:
    """`specs` with the Pythons from texts such as "nexfort=/envs/nexfort", an interpreter or an environment's folder.

    Raises UsageError for a path that is neither, and for a backend that is not measured.
    """
    chosen: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.rpartition("=")
        if not equals or not path:
            raise UsageError(f"--python {text}: no backend and path", "write --python nexfort=/path/to/bin/python")
        if name not in {known for spec in specs for known in (spec.text, spec.backend)}:
            raise UsageError(
                f"--python names {name}, which is not measured", f"--backends {','.join(s.text for s in specs)},{name}"
            )
        chosen[name] = _interpreter(path)
    return tuple(
        Spec(spec.text, spec.backend, spec.options, chosen.get(spec.text, chosen.get(spec.backend))) for spec in specs
    )


def with_range(specs: Sequence[Spec], span: tuple[int, int]) -> tuple[Spec, ...]:
    """`specs` with graphs for all sides within `span` pixels, where there is something to compile."""

    def dynamic(spec: Spec) -> Spec:
        if spec.backend == "eager":
            return spec
        given = spec.options or "{}"
        options = json.loads(given) if given.startswith("{") else {"preset": given}
        return Spec(spec.text, spec.backend, json.dumps({**options, "dynamic": list(span)}), spec.python)

    return tuple(map(dynamic, specs))


def parts(specs: Sequence[Spec], runs: int) -> tuple[Part, ...]:
    """The processes in turn: all backends compile or start once, then the references, then the other runs.

    Every other round goes backwards: a machine that grows slower or faster favours nobody.
    """
    rounds = [
        [Part(spec, "run", number) for spec in specs[:: 1 if number % 2 else -1]] for number in range(1, runs + 1)
    ]
    shown = [Part(spec, "reference", 1) for spec in references(specs)]
    return (*rounds[0], *shown, *chain.from_iterable(rounds[1:]))


def references(specs: Sequence[Spec]) -> tuple[Spec, ...]:
    """Uncompiled drawing in every Python that has no column of it: each backend is compared within its own Python."""
    pythons = dict.fromkeys(spec.python for spec in specs)
    plain = {spec.python for spec in specs if is_plain(spec)}
    return tuple(Spec(PLAIN, "eager", json.dumps({"cuda_graph": False}), each) for each in pythons if each not in plain)


def reference_of(spec: Spec, specs: Sequence[Spec]) -> Spec:
    """What `spec` is compared with."""
    return next(one for one in (*specs, *references(specs)) if is_plain(one) and one.python == spec.python)


def is_plain(spec: Spec) -> bool:
    """Whether this is the UNet as diffusers calls it, neither compiled nor in a CUDA graph."""
    return spec.backend == "eager" and options(spec).get("cuda_graph") is False


def baseline(specs: Sequence[Spec]) -> Spec | None:
    """What the others' figures are set against: a column of uncompiled drawing where there is one, else any eager."""
    eager = [spec for spec in specs if spec.backend == "eager"]
    return next(iter([*filter(is_plain, eager), *eager]), None)


def options(spec: Spec) -> Mapping[str, Any]:
    """The options given by name, without those of a preset."""
    found = _value(spec.options or "{}")
    return found if isinstance(found, dict) else {}


def _spec(text: str) -> Spec:
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
    return Spec(text, backend, given or None)


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
