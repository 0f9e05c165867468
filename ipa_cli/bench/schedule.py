"""The processes of a bench and their order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from ipa_cli import backends
from ipa_cli.bench.specs import UNCOMPILED, BackendSpec, is_uncompiled


@dataclass(frozen=True)
class Job:
    """One process that draws: a run of a backend, or a reference with which others are compared."""

    spec: BackendSpec
    kind: Literal["run", "reference"]
    number: int

    def __str__(self) -> str:
        if self.kind == "run":
            return f"{self.spec.text}, run {self.number}"
        return f"reference, uncompiled{f' in {self.spec.python}' if self.spec.python else ''}"


def jobs(specs: Sequence[BackendSpec], runs: int) -> tuple[Job, ...]:
    """The processes in turn: all backends compile or start once, then the references, then the other runs.

    Every other round goes backwards: a machine that becomes slower or faster favours none.
    """
    rounds = [[Job(spec, "run", number) for spec in specs[:: 1 if number % 2 else -1]] for number in range(1, runs + 1)]
    reference_jobs = [Job(spec, "reference", 1) for spec in references(specs)]
    return (*rounds[0], *reference_jobs, *chain.from_iterable(rounds[1:]))


def references(specs: Sequence[BackendSpec]) -> tuple[BackendSpec, ...]:
    """Uncompiled drawing in every Python that `specs` has none of: each backend is compared within its own Python."""
    pythons = dict.fromkeys(spec.python for spec in specs)
    covered = {spec.python for spec in specs if is_uncompiled(spec)}
    options = json.dumps({"cuda_graph": False})
    return tuple(
        BackendSpec(UNCOMPILED, backends.UNCOMPILED, options, python) for python in pythons if python not in covered
    )


def reference_of(spec: BackendSpec, specs: Sequence[BackendSpec]) -> BackendSpec:
    """The uncompiled drawing with which `spec` is compared."""
    return next(one for one in (*specs, *references(specs)) if is_uncompiled(one) and one.python == spec.python)


def baseline(specs: Sequence[BackendSpec]) -> BackendSpec | None:
    """What the ratios are to: uncompiled drawing where it is among `specs`, else any eager."""
    eager = [spec for spec in specs if spec.backend == backends.UNCOMPILED]
    return next(iter([*filter(is_uncompiled, eager), *eager]), None)
