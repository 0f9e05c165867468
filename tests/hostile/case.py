"""One attack: a world to prepare, and a command that is typed in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from ipa_cli.models.plan import DEMO

CANARY = "HOSTILE_CANARY"  # in the environment: the file that foreign code would make


@dataclass(frozen=True)
class Attack:
    """What is typed after `prepare` was called with the working directory of a fresh world.

    `alone` runs it as a process of its own, started by the script that users start; `within` is a context that another
    runs in, given a folder of its own.
    """

    name: str
    arguments: tuple[str, ...]
    prepare: Callable[[Path], object] = lambda folder: None
    environ: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False
    within: Callable[[Path], AbstractContextManager[None]] = lambda folder: nullcontext()


Kind = Callable[[Random], Attack]
# A picture in a moment.
SMALL = ("--width", "64", "--height", "64", "--steps", "1", "--warmup", "0", "--seed", "7", "--device", "cpu")
WORDS = ("generate", *SMALL, "--prompt", "a star", "--json")
DRAW = (*WORDS, "--image", str(DEMO / "reference.png"))


def code(canary: str = f"os.environ.get('{CANARY}', '/dev/null')") -> str:
    """Python that shows it ran."""
    return f"import os; open({canary}, 'a').write('ran')\n"


def replace(path: Path, data: bytes) -> None:
    """Put other content in the place of a file that may be a link to the package's own."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
