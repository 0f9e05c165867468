"""Attacks one after the other, each in a fresh world, and what came of them.

    python -m tests.hostile [--cases 2000] [--seed 0] [--workers 2] [--kinds links,records] [--show NUMBER]

A case is bad when foreign code ran, when a user's file changed, when the command ended with another status than 0, 1
or 2, or not within 30 seconds (120 for a process of its own, which imports torch first). A case is known by the seed
and its number: `--show` runs it again and prints what it said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from random import Random
from typing import Any

from tests.hostile.case import CANARY, Attack

SECONDS, SECONDS_ALONE = 30.0, 120.0
OWNED = {".bashrc": "alias ll=ls\n", "notes.txt": "mine\n", "work.png": "not a picture\n"}


@dataclass(frozen=True)
class Verdict:
    """What became of a case; `bad` is empty when it was as it should be."""

    number: int
    kind: str
    name: str
    exit_code: int
    seconds: float
    bad: str = ""
    said: str = ""


def attack(number: int, seed: int, kinds: Iterable[str]) -> tuple[str, Attack]:
    """The kind and the attack of a number: the kinds take turns, those that start processes every eighth time."""
    from tests.hostile.kinds import KINDS, SLOW

    names = list(kinds) or [*(name for name in KINDS if name not in SLOW)] * 8 + list(SLOW)
    name = names[number % len(names)]
    return name, KINDS[name](Random(f"{seed} {name} {number}"))


def carry_out(number: int, seed: int, kinds: Iterable[str]) -> Verdict:
    """One case, in this process or in one of its own. Nothing of it stays."""
    kind, chosen = attack(number, seed, kinds)
    with _world() as (root, environ):
        work, canary = root / "work", root / "canary"
        chosen.prepare(work)
        environ |= chosen.environ
        began = time.monotonic()
        with chosen.within(root / "more"):
            run = _alone if chosen.alone else _here
            code, said = run(chosen.arguments, work, environ)
        seconds = time.monotonic() - began
        lost = [name for name, text in OWNED.items() if _content(root / "home" / name) != text]
        bad = [
            *(["foreign code ran"] if canary.exists() else []),
            *([f"changed {', '.join(lost)}"] if lost else []),
            *([f"exit status {code}"] if code not in (0, 1, 2) else []),
            *([f"{seconds:.0f} s"] if seconds > (SECONDS_ALONE if chosen.alone else SECONDS) else []),
        ]
        return Verdict(number, kind, chosen.name, code, seconds, "; ".join(bad), said if bad else said[-300:])


def _content(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@contextmanager
def _world() -> Iterator[tuple[Path, dict[str, str]]]:
    """A home with files of its owner, and a working directory that is somebody's gift."""
    root = Path(tempfile.mkdtemp(prefix="ipa-hostile-"))
    home = root / "home"
    home.mkdir()
    (root / "work").mkdir()
    for name, text in OWNED.items():
        (home / name).write_text(text)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("IPA_", "XDG_"))}
    environ |= {"HOME": str(home), CANARY: str(root / "canary"), "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
    environ |= {"EDITOR": "true", "VISUAL": "true"}
    try:
        yield root, environ
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _here(arguments: tuple[str, ...], work: Path, environ: dict[str, str]) -> tuple[int, str]:
    """In this process, where torch is imported once for all cases."""
    from ipa_cli.bench import run as bench
    from ipa_cli.errors import IpaError
    from ipa_cli.system import inputs
    from tests.conftest import run_here

    def measured(*_: object, **__: object) -> None:
        raise IpaError("a bench would begin", "")

    before, bench.bench, inputs.FIFO_SECONDS = dict(os.environ), measured, 1.0  # type: ignore[assignment]
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(work)
    try:
        ran = run_here(*arguments)
    finally:
        os.chdir("/")
        os.environ.clear()
        os.environ.update(before)
    return ran.exit_code, ran.stderr + ran.stdout


def _alone(arguments: tuple[str, ...], work: Path, environ: dict[str, str]) -> tuple[int, str]:
    """By the script that an installation has, as a process of its own."""
    script = Path(sys.executable).with_name("ipa")
    command = [str(script), *arguments]
    try:
        done = subprocess.run(
            command, cwd=work, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=2 * SECONDS_ALONE
        )
    except subprocess.TimeoutExpired:
        return -1, f"not within {2 * SECONDS_ALONE:.0f} s"
    return done.returncode, (done.stderr + done.stdout).decode("utf-8", "replace")


def _work(numbers: list[int], seed: int, kinds: list[str], pipe: Any) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for number in numbers:
        pipe.send(number)
        pipe.send(carry_out(number, seed, kinds))
    pipe.close()


def run(cases: int, seed: int, workers: int = 2, kinds: Iterable[str] = ()) -> Iterator[Verdict]:
    """All verdicts, as they come; a worker that hangs is killed, and another goes on behind its case."""
    context, kinds = get_context("spawn"), list(kinds)
    running: dict[Any, tuple[Any, list[int]]] = {}
    begun: dict[Any, tuple[int, float]] = {}  # by pipe: the case at work, and since when

    def start(numbers: list[int]) -> None:
        if numbers:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(numbers, seed, kinds, theirs))
            process.start()
            theirs.close()
            running[ours] = (process, numbers)

    def stop(pipe: Any, why: str) -> Verdict:
        process, numbers = running.pop(pipe)
        process.kill()
        process.join()
        number, since = begun.pop(pipe)
        start(numbers[numbers.index(number) + 1 :])
        kind, chosen = attack(number, seed, kinds)
        return Verdict(number, kind, chosen.name, -1, time.monotonic() - since, why)

    for first in range(workers):
        start(list(range(first, cases, workers)))
    while running:
        for pipe in wait(list(running), timeout=1):
            try:
                message = pipe.recv()
            except EOFError:
                if pipe in begun:
                    yield stop(pipe, "the process died")
                else:
                    running.pop(pipe)[0].join()
                continue
            if isinstance(message, Verdict):
                del begun[pipe]
                yield message
            else:
                begun[pipe] = (message, time.monotonic())
        for pipe, (_, since) in list(begun.items()):
            if time.monotonic() - since > 3 * SECONDS_ALONE:
                yield stop(pipe, "hangs")


def table(verdicts: Iterable[Verdict]) -> str:
    """Counts by kind, and the bad ones below."""
    rows: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        rows.setdefault(verdict.kind, []).append(verdict)
    lines = [f"{'':22} {'cases':>6} {'0':>6} {'1':>6} {'2':>6} {'bad':>5} {'slowest':>8}"]
    everything = [verdict for row in rows.values() for verdict in row]
    for kind, row in [*sorted(rows.items()), ("all", everything)]:
        counts = [sum(verdict.exit_code == code for verdict in row) for code in (0, 1, 2)]
        bad, slowest = sum(bool(verdict.bad) for verdict in row), max((verdict.seconds for verdict in row), default=0)
        lines.append(f"{kind:22} {len(row):6} {counts[0]:6} {counts[1]:6} {counts[2]:6} {bad:5} {slowest:6.1f} s")
    lines += [
        f"{verdict.number} {verdict.kind}: {verdict.bad}: {verdict.name!r}" for verdict in everything if verdict.bad
    ]
    return "\n".join(lines)
