"""How long `ipa cache ls --json` takes with many graphs in the cache, as a whole process.

    python benchmarks/cache_ls.py [--entries 10000] [--runs 5]

The entries have the manifests that compiling SDXL makes, 14 files of a region each; the files themselves are missing,
since a listing does not look at them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ipa_cli import probe
from ipa_cli.keys import GraphKey, flatten
from ipa_cli.store import manifest
from ipa_cli.store.entries import BUCKET

ROOT = Path(__file__).resolve().parent.parent
PARTS = 14


def graph(number: int, machine: dict[str, Any], unet: dict[str, Any]) -> tuple[GraphKey, dict[str, Any]]:
    """The key and manifest of a graph like SDXL's; every fourth is of another torch."""
    facts = {
        **machine,
        "torch": "2.12.0" if number % 4 == 0 else probe.machine().versions["torch"],
        "code": f"{number:064x}",
        "unet": unet,
        "dtype": "float16",
        "batch": 2,
        "text tokens": 77,
        "image tokens": [4],
        "options": {"preset": "fast", "parts": "regions", "channels_last": True},
        "width": 1024,
        "height": 1024,
    }
    key = GraphKey("inductor", "cpu", "1024x1024-b2", flatten(facts))
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
    for number in range(count):
        key, fields = graph(number, machine, unet)
        folder = root / BUCKET / key.folder
        folder.mkdir(parents=True)
        (folder / manifest.MANIFEST).write_bytes(manifest.render(fields))
        (folder / manifest.USES).write_bytes(b"\n" * (number % 5))


def listed(root: Path) -> tuple[float, int]:
    """Seconds of one process, and how many graphs it listed."""
    command = [sys.executable, "-m", "ipa_cli", "cache", "ls", "--json", "--cache-dir", str(root)]
    started = time.perf_counter()
    out = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    seconds = time.perf_counter() - started
    return seconds, len(json.loads(out)["data"]["graphs"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), asked.entries)
        size = next(Path(folder).rglob(manifest.MANIFEST)).stat().st_size
        runs = [listed(Path(folder)) for _ in range(asked.runs)]
    assert {count for _, count in runs} == {asked.entries}
    seconds = [each for each, _ in runs]
    print(f"{asked.entries} graphs, manifests of {size} bytes, {asked.runs} runs")
    print(f"median {statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f} s")


if __name__ == "__main__":
    main()
