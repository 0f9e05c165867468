"""How long `ipa cache ls` takes with many graphs in the cache, as a whole process, for scripts and as a table.

    python benchmarks/cache_ls.py [--entries 10000] [--runs 5]

The entries have the manifests that compiling SDXL makes, 14 files of a region each; the files themselves are missing,
since a listing does not look at them. The first run is not counted: it writes the bytecode that pip would have written.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ipa_cli import backends
from ipa_cli.cache import manifest, signature
from ipa_cli.cache.entries import BUCKET
from ipa_cli.cache.keys import GraphKey, flatten
from ipa_cli.hardware import probe

ROOT = Path(__file__).resolve().parent.parent
PARTS = 14


def graph(number: int, machine: dict[str, Any], unet: dict[str, Any]) -> tuple[GraphKey, dict[str, Any]]:
    """The key and manifest of a graph like SDXL's, each for another size; every fourth is of another torch."""
    width, height = 512 + 8 * (number % 128), 512 + 8 * (number // 128)
    facts = {
        **machine,
        "torch": "2.12.0" if number % 4 == 0 else probe.machine().versions["torch"],
        "code": backends.code("inductor"),
        "unet": unet,
        "dtype": "float16",
        "batch": 2,
        "text tokens": 77,
        "image tokens": [4],
        "options": {"preset": "fast", "parts": "regions", "channels_last": True},
        "width": width,
        "height": height,
    }
    key = GraphKey("inductor", "cpu", f"{width}x{height}-b2", flatten(facts))
    names = [f"region-{part}.pt2" for part in range(PARTS)] + ["regions.json"]
    return key, {
        "schema_version": manifest.SCHEMA_VERSION,
        "digest": key.digest,
        "key": key.as_dict(),
        "created": f"2026-11-{number % 28 + 1:02}T12:00:00+00:00",
        "tool": "ipa 0.1.0",
        "build_seconds": 70.0,
        "describe": {"model": "sdxl"},
        "figures": {"error": 0.0015},
        "files": {name: {"sha256": f"{number:064x}", "size": 1_000_000 + number} for name in names},
    }


def fill(root: Path, count: int) -> None:
    unet = json.loads((ROOT / "ipa_cli/demo/unet/config.json").read_text())
    machine = probe.machine().factors("cpu")
    own = signature.signing_key()
    for number in range(count):
        key, fields = graph(number, machine, unet)
        folder = root / BUCKET / key.folder
        folder.mkdir(parents=True)
        text = manifest.render(fields)
        (folder / manifest.MANIFEST).write_bytes(text)
        (folder / manifest.SIGNATURE).write_bytes(signature.sign(text, own))
        (folder / manifest.USES).write_bytes(b"\n" * (number % 5))


def listed(root: Path, *flags: str) -> tuple[float, float, str]:
    """Seconds of one process, its CPU seconds, and what it said."""
    command = [sys.executable, "-m", "ipa_cli", "cache", "ls", *flags, "--cache-dir", str(root / "cache")]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environ["PYTHONPYCACHEPREFIX"] = str(root / "bytecode")
    before, started = os.times(), time.perf_counter()
    out = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, check=True, text=True).stdout
    seconds, after = time.perf_counter() - started, os.times()
    return seconds, sum(after[2:4]) - sum(before[2:4]), out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["XDG_STATE_HOME"] = str(root / "state")
        fill(root / "cache", asked.entries)
        size = next(root.rglob(manifest.MANIFEST)).stat().st_size
        print(f"{asked.entries} graphs, manifests of {size} bytes, {asked.runs} runs")
        graphs = json.loads(listed(root, "--json")[2])["data"]["graphs"]
        assert len(graphs) == asked.entries and not any("made elsewhere" in str(graph["obstacles"]) for graph in graphs)
        for name, flags in (("--json", ("--json",)), ("table", ())):
            runs = [listed(root, *flags) for _ in range(asked.runs)]
            seconds, busy = [run[0] for run in runs], [run[1] for run in runs]
            print(
                f"{name}: median {statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f} s;"
                f" CPU {statistics.median(busy):.2f} s"
            )


if __name__ == "__main__":
    main()
