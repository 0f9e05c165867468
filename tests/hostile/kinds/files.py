"""Files that earlier runs leave and later ones read: sweeps, benches, embeddings."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from random import Random

from ipa_cli.bench import results_file
from tests.bench.test_results import a_bench
from tests.hostile.case import SMALL, Attack
from tests.hostile.mutation import damaged, json_damaged
from tests.zoo.layouts import DEMO

SWEEP = (
    "sweep-scale", "--scales", "0,1", "--size", "64x64", "--steps", "1", "--warmup", "0", "--seed", "7",
    "--device", "cpu",
    "--backend", "eager", "--image", "reference.png", "-o", "sweep", "--json",
)  # fmt: skip


@cache
def made() -> dict[str, bytes]:
    """The files of a finished sweep, and of `ipa embed`."""
    from tests.conftest import run_here

    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        shutil.copy(DEMO / "reference.png", folder)
        ran = run_here(*SWEEP)
        assert ran.exit_code == 0, ran.stderr
        ran = run_here("embed", DEMO / "reference.png", "-o", folder / "e.safetensors", "--device", "cpu")
        assert ran.exit_code == 0, ran.stderr
        os.chdir(before)
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sweep(random: Random) -> Attack:
    """A sweep's folder whose description, journal or pictures are not what they were."""
    name = random.choice(("sweep/sweep.json", "sweep/sweep.json", "sweep/results.jsonl"))
    text = made()[name].decode()
    if name.endswith(".json"):
        changed = json_damaged(text, random).encode("utf-8", "replace")
    else:
        first, *others = text.splitlines(keepends=True)
        changed = (json_damaged(first, random) + "\n" + "".join(others)).encode("utf-8", "replace")
    keeps = random.random() < 0.8  # a folder that lacks its pictures is drawn anew

    def prepare(folder: Path) -> None:
        for file, data in made().items():
            if file == "reference.png" or (
                file.startswith("sweep/") and (keeps or not file.startswith("sweep/pictures/"))
            ):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(changed if file == name else data)

    return Attack(f"{name}: {changed[:40]!r}", (*SWEEP, "--resume"), prepare)


def bench(random: Random) -> Attack:
    """An earlier bench that is to be compared with."""
    data = json_damaged(json.dumps(results_file.to_data(a_bench())), random).encode("utf-8", "replace")
    typed = ("bench", "--compare", "results.json", "--backends", "eager", "--runs", "1", "--device", "cpu", "--json")
    return Attack(f"bench {data[:40]!r}", typed, lambda folder: (folder / "results.json").write_bytes(data))


def embeds(random: Random) -> Attack:
    """A file of embeddings whose header or words are damaged."""
    whole = made()["e.safetensors"]
    length = int.from_bytes(whole[:8], "little")
    said = json.loads(whole[8 : 8 + length])
    if random.random() < 0.5:
        said["__metadata__"]["ipa"] = (
            json_damaged(said["__metadata__"]["ipa"], random).encode("utf-8", "replace").decode()
        )
        text = json.dumps(said).encode()
        data = len(text).to_bytes(8, "little") + text + whole[8 + length :]
    else:
        data = damaged(whole, random)
    typed = ("generate", *SMALL, "--embeds", "e.safetensors", "--json")
    return Attack("embeds", typed, lambda folder: (folder / "e.safetensors").write_bytes(data))


KINDS = {"sweeps": sweep, "benches": bench, "embeddings": embeds}
