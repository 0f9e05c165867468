"""One graph for all tests that need a compiled one: compiling takes a minute or two of a core."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from tests import tiny_model
from tests.terminal import on_a_terminal

SPAN = (64, 256)


@dataclass(frozen=True)
class Compiled:
    """What `ipa compile` left for pictures of SPAN pixels a side on the CPU, and what it told; not to be spoilt."""

    cache: Path
    model: Path
    envelope: dict[str, Any]
    shown: str  # on the terminal, while it worked

    @property
    def graph(self) -> dict[str, Any]:
        """What it said of the graph."""
        (graph,) = self.envelope["data"]["graphs"]
        return graph


def shared(folder: Path) -> Compiled:
    """The graph in `folder`, compiled by the first process that asks."""
    model, cache, told, shown = (folder / name for name in ("model", "cache", "told.json", "shown.txt"))
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not shown.exists():
            arguments = ("compile", *flags(tiny_model.write(model)), "--cache-dir", cache, "--json")
            mine = ("IPA_", "XDG_", "NO_COLOR")
            environ = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
            environ |= {"HOME": str(folder), "TERM": "xterm-256color", "COLUMNS": "100"}
            environ["XDG_STATE_HOME"] = os.environ["XDG_STATE_HOME"]
            with told.open("w") as stdout, one_core():
                text = on_a_terminal(("-m", "ipa_cli", *arguments), environ, stdout)
            shown.write_text(text)
    return Compiled(cache, model, json.loads(told.read_text()), shown.read_text())


@contextmanager
def one_core() -> Iterator[None]:
    """Beside another worker's tests, start processes on one core: a single one compiles then, with less work in all."""
    if "PYTEST_XDIST_WORKER" not in os.environ or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def flags(model: Path) -> tuple[object, ...]:
    """The flags of `ipa compile` that ask for this graph."""
    return "--model", model, "--load-format", "dummy", "--device", "cpu", "--dynamic", "{}..{}".format(*SPAN)
