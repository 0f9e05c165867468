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

from ipa_cli.bench import chart, plan, results, table
from ipa_cli.bench.plan import Part, Spec
from ipa_cli.bench.results import Bench
from ipa_cli.config import Layer, Source
from ipa_cli.config.privacy import public_text
from ipa_cli.errors import IpaError
from ipa_cli.hardware.gpu import slug
from ipa_cli.system import files

RESULTS, TABLE, CHART = "results.json", "table.md", "chart.png"
WORK = ".work"
# Settings that make two benches comparable; the rest of them is the same for all or of no weight.
TASK = ("model", "load_format", "ip_adapter", "device", "dtype", "steps", "guidance_scale", "scheduler")


def write(folder: Path, done: Bench) -> None:
    """Data, table and chart, each file whole or not at all. Raises IpaError when the folder cannot be written."""
    files.replace(folder / RESULTS, (json.dumps(results.to_data(done), indent=1) + "\n").encode())
    files.replace(folder / TABLE, public_text(table.markdown(done)).encode())
    files.replace(folder / CHART, chart.draw(done))


def claim(folder: Path, force: bool) -> None:
    """Make `folder`, so that what cannot be written is told first. Raises IpaError when a bench lies there."""
    if os.path.lexists(folder / RESULTS) and not force:
        hint = "choose another --output, go on with it by --resume, or replace it with --force"
        raise IpaError(f"{folder} holds a bench already", hint)
    for name in (RESULTS, TABLE, CHART):
        files.check_writable(folder / name, replacing=True)
    files.make_folder(folder / WORK)


@dataclass(frozen=True)
class Kept:
    """What a bench in a folder was asked for: settings, and flags of `ipa bench` beside them."""

    layer: Layer
    backends: tuple[str, ...]
    batch: int
    dynamic: str | None
    runs: int


def kept(folder: Path, chosen: bool) -> Kept | None:
    """What a bench in `folder` was asked for, to go on with it; None where there is none.

    The folder may be somebody else's: raises IpaError for backends that would run code of its choice, unless the user
    has `chosen` them.
    """
    if not os.path.lexists(folder / RESULTS):
        return None
    data = results.read(folder)
    asked = data["asked"]
    values = {name: asked[name] for name in TASK if name in asked}
    seeds = [entry["environment"]["seed"] for entry in data["backends"] if "seed" in entry["environment"]]
    values |= {"seed": seeds[0]} if seeds else {}
    if size := re.fullmatch(r"(\d{1,5})x(\d{1,5})", asked["size"]):
        values |= {"width": int(size[1]), "height": int(size[2])}
    names = tuple(entry["name"] for entry in data["backends"])
    specs = () if chosen else plan.parse_specs(names)
    others = {entry["name"] for entry in data["backends"] if entry["python"]}
    for spec in specs:
        if spec.text in others or any(isinstance(value, dict) for value in plan.options(spec).values()):
            raise IpaError(
                f"{folder} asks for {spec.text}, which may run any program", "say it again with --backends and --python"
            )
    ranges = [] if any(plan.options(spec).get("dynamic") for spec in specs) else asked["dynamic"]
    return Kept(
        Layer(Source("bench", str(folder / RESULTS)), values),
        names,
        min(max(asked["batch"], 1), 64),
        ranges[0].strip("[]").replace(", ", "..") if ranges else None,
        min(max(data["runs"], 1), 100),
    )


def begun(folder: Path, asked: Mapping[str, Any], machine: Mapping[str, Any], specs: Sequence[Spec]) -> dict[str, Any]:
    """What a bench left in `folder`; nothing when there is none. Raises IpaError when it was of something else."""
    if not os.path.lexists(folder / RESULTS):
        return {}
    earlier = results.read(folder)
    differing = results.unlike(asked, earlier)
    differing += results.moved(machine, earlier)
    differing += [f"without {spec.text}" for spec in results.measured(earlier, "backends") if spec not in specs]
    if differing:
        raise IpaError(
            f"{folder} holds a bench of something else: {', '.join(differing)}",
            "ask for the same, or leave out --resume",
        )
    return earlier


def graphs(folder: Path, spec: Spec) -> Path:
    """The cache of a backend's graphs, its own, so that its first process has to compile."""
    return (folder / WORK / f"graphs-{_name(spec)}").absolute()


def drawn(folder: Path, spec: Spec) -> Path:
    """What a backend's first process drew, see `drawn.write`."""
    return (folder / WORK / f"drawn-{_name(spec)}.npz").absolute()


def log(folder: Path, part: Part) -> Path:
    """What a process that failed has said."""
    return folder / f"{slug(part.spec.text)}-{part.kind}-{part.number}.log"


def clear(folder: Path) -> None:
    """Remove what only a bench that goes on needs."""
    shutil.rmtree(folder / WORK, ignore_errors=True)


def _name(spec: Spec) -> str:
    text = json.dumps(asdict(spec), sort_keys=True)
    return f"{spec.backend}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
