"""The folder of a bench: what it shows, and what it needs as long as there is more to measure."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ipa_cli.bench import chart, comparison, results_file, specs, table
from ipa_cli.bench.results import BenchResults
from ipa_cli.bench.schedule import Job
from ipa_cli.bench.specs import BackendSpec
from ipa_cli.config import Layer, Source
from ipa_cli.config.privacy import public_text
from ipa_cli.errors import IpaError
from ipa_cli.hardware.gpu import slug
from ipa_cli.system import files

RESULTS, TABLE, CHART = results_file.NAME, "table.md", "chart.png"
WORK = ".work"
SAMPLING = (
    "scheduler",
    "schedule",
    "eta",
    "preset",
    "guidance_start",
    "guidance_end",
    "guidance_rescale",
    "step_cache",
)
# Settings that make two benches comparable; the rest of them is the same for all or has no influence.
WORKLOAD = ("model", "load_format", "ip_adapter", "device", "dtype", "steps", "guidance_scale", *SAMPLING)


def write(folder: Path, results: BenchResults) -> None:
    """Data, table and chart, each file whole or not at all. Raises IpaError when the folder cannot be written."""
    files.replace(folder / RESULTS, (json.dumps(results_file.to_data(results), indent=1) + "\n").encode())
    files.replace(folder / TABLE, public_text(table.markdown(results)).encode())
    files.replace(folder / CHART, chart.draw(results))


def prepare(folder: Path, replacing: bool) -> None:
    """Make `folder` and check that its files can be written. Raises IpaError when it holds a bench already."""
    if os.path.lexists(folder / RESULTS) and not replacing:
        hint = "choose another --output, continue it with --resume, or replace it with --force"
        raise IpaError(f"{folder} holds a bench already", hint)
    for name in (RESULTS, TABLE, CHART):
        files.check_writable(folder / name, replacing=True)
    files.make_folder(folder / WORK)


@dataclass(frozen=True)
class Request:
    """What a bench was asked for: settings, and the flags of `ipa bench` beside them."""

    layer: Layer
    backends: tuple[str, ...]
    batch: int
    dynamic: str | None
    runs: int


def earlier_request(folder: Path, backends_given: bool) -> Request | None:
    """What the bench in `folder` was asked for, to resume it; None where there is none.

    The folder may be somebody else's: raises IpaError for backends that would run code of its choice, unless the user
    has given the backends (`backends_given`).
    """
    if not os.path.lexists(folder / RESULTS):
        return None
    data = results_file.read(folder)
    asked = data["asked"]
    values = {name: asked[name] for name in WORKLOAD if name in asked}
    seeds = [entry["environment"]["seed"] for entry in data["backends"] if "seed" in entry["environment"]]
    values |= {"seed": seeds[0]} if seeds else {}
    if size := re.fullmatch(r"(\d{1,5})x(\d{1,5})", asked["size"]):
        values |= {"width": int(size[1]), "height": int(size[2])}
    names = tuple(entry["name"] for entry in data["backends"])
    parsed = () if backends_given else specs.parse_specs(names)
    with_python = {entry["name"] for entry in data["backends"] if entry["python"]}
    for spec in parsed:
        if spec.text in with_python or any(isinstance(value, dict) for value in specs.options(spec).values()):
            raise IpaError(
                f"{folder} asks for {spec.text}, which may run any program",
                "allow it by giving --backends and --python again",
            )
    ranges = [] if any(specs.options(spec).get("dynamic") for spec in parsed) else asked["dynamic"]
    return Request(
        Layer(Source("bench", str(folder / RESULTS)), values),
        names,
        min(max(asked["batch"], 1), 64),
        ranges[0].strip("[]").replace(", ", "..") if ranges else None,
        min(max(data["runs"], 1), 100),
    )


def unfinished(
    folder: Path, asked: Mapping[str, Any], machine: Mapping[str, Any], specs: Sequence[BackendSpec]
) -> dict[str, Any]:
    """The results of the bench in `folder`, empty when there is none. Raises IpaError when its workload differs."""
    if not os.path.lexists(folder / RESULTS):
        return {}
    earlier = results_file.read(folder)
    differences = comparison.workload_differences(asked, earlier)
    differences += comparison.machine_differences(machine, earlier)
    differences += [f"without {spec.text}" for spec in results_file.measured(earlier, "backends") if spec not in specs]
    if differences:
        raise IpaError(
            f"{folder} holds a bench of another workload: {', '.join(differences)}",
            "ask for the same, or leave out --resume",
        )
    return earlier


def graph_cache(folder: Path, spec: BackendSpec) -> Path:
    """The cache of a backend's graphs, its own, so that its first process has to compile."""
    return (folder / WORK / f"graphs-{_name(spec)}").absolute()


def output(folder: Path, spec: BackendSpec) -> Path:
    """The output of a backend's first process, see `parity.keep`."""
    return (folder / WORK / f"output-{_name(spec)}.npz").absolute()


def log(folder: Path, job: Job) -> Path:
    """The log of a process that failed."""
    return folder / f"{slug(job.spec.text)}-{job.kind}-{job.number}.log"


def remove_work(folder: Path) -> None:
    """Remove what only an unfinished bench needs."""
    shutil.rmtree(folder / WORK, ignore_errors=True)


def _name(spec: BackendSpec) -> str:
    text = json.dumps(asdict(spec), sort_keys=True)
    return f"{spec.backend}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
