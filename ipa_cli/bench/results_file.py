"""A bench as JSON: `results.json`, and what is read back of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ipa_cli.bench import schema
from ipa_cli.bench.metrics import METRICS
from ipa_cli.bench.results import BackendResult, BenchResults
from ipa_cli.bench.specs import BackendSpec
from ipa_cli.config.privacy import public
from ipa_cli.errors import IpaError
from ipa_cli.models.location import is_folder
from ipa_cli.system import inputs

NAME = "results.json"
FORMAT = 1
MAX_BYTES = 64_000_000


def to_data(results: BenchResults) -> dict[str, Any]:
    """The bench as JSON keeps it: every run, and the figures made of them."""

    def figures(backend: BackendResult) -> dict[str, Any]:
        found = {metric.name: (backend.figure(metric), results.ratio(backend, metric)) for metric in METRICS}
        return {name: {**asdict(figure), "ratio": ratio} if figure else None for name, (figure, ratio) in found.items()}

    def entry(backend: BackendResult) -> dict[str, Any]:
        return {
            "name": backend.spec.text,
            "backend": backend.spec.backend,
            "options": backend.spec.options,
            "python": backend.spec.python,
            "reason": backend.reason,
            "hint": backend.hint,
            "log": list(backend.log),
            "environment": dict(backend.environment),
            "figures": figures(backend),
            "parity": backend.parity,
            "runs": [dict(run) for run in backend.runs],
        }

    data = {
        "format": FORMAT,
        "date": results.date,
        "seconds": results.seconds,
        "stopped": results.stopped,
        "runs": results.runs,
        "asked": dict(results.asked),
        "machine": dict(results.machine),
        "baseline": results.baseline,
        "backends": [entry(backend) for backend in results.backends],
        "references": [entry(backend) for backend in results.references],
    }
    return public(data)


def measured(data: Mapping[str, Any], key: str) -> dict[BackendSpec, BackendResult]:
    """The runs of "backends" or "references" in what `read` gave; failures are left out, they are tried again."""
    found = {}
    for entry in data[key]:
        python = entry["python"] and os.path.expanduser(entry["python"])  # noqa: PTH111 (a text, as it was given)
        spec = BackendSpec(entry["name"], entry["backend"], entry["options"], python)
        found[spec] = BackendResult(spec, tuple(entry["runs"]), entry["parity"], entry["environment"])
    return found


# The part of `to_data` that is read back.
_NUMBER = (int, float)
_BACKEND = {
    "name": str,
    "backend": str,
    "options": (str, type(None)),
    "python": (str, type(None)),
    "environment": dict,
    "parity": (dict, type(None)),
    "figures": {...: (None, {"median": _NUMBER, "least": _NUMBER, "most": _NUMBER})},
    "runs": [
        {
            "origin": str,
            "warnings": list,
            "process_s": _NUMBER,
            "compile_s": _NUMBER,
            "weights_sum": _NUMBER,
            "inputs_sum": _NUMBER,
            **{metric.key: (*_NUMBER, type(None)) for metric in METRICS},
        }
    ],
}
_SCHEMA = {
    "date": str,
    "runs": int,
    "asked": {"size": str, "batch": int, "dynamic": [str]},
    "machine": dict,
    "backends": [_BACKEND],
    "references": [_BACKEND],
}


def read(path: Path) -> dict[str, Any]:
    """What `to_data` gave, from a file, or from the folder it lies in. Raises IpaError when it is not a bench."""
    path = path / NAME if is_folder(path) else path
    hint = "name the results.json of an earlier bench"
    try:
        data = json.loads(inputs.read_bytes(path, MAX_BYTES, "a bench"))
    except inputs.MissingFile:
        raise IpaError(f"there is no file {path}", hint) from None
    except (ValueError, RecursionError) as error:
        raise IpaError(f"{path} cannot be read: {error}", hint) from None
    if isinstance(data, dict) and data.get("command") == "bench":  # what `ipa bench --json` printed
        data = data.get("data")
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise IpaError(f"{path} is not a bench of this version of ipa", hint)
    if name := schema.first_mismatch(data, _SCHEMA):
        raise IpaError(f"{path} is not a complete bench: {name} is missing or of the wrong type", hint)
    return data
