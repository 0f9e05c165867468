"""Pictures a second of `ipa batch`, full-size SDXL and IP-Adapter of random weights, from first job to last file.

    python benchmarks/throughput.py                            half and fp8 on one GPU, then two by --devices
    python benchmarks/throughput.py --ways devices-1,devices,ray-1,ray-2 --jobs 256

1024 pixels, 20 steps, guidance 8. Each way is a process of its own; loading and compiling do not count: the figure is
(jobs - 16) over the seconds from the 16th picture's file to the last one's. The last lines are a table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIRST = 16  # pictures, of which each device has drawn some by then
WAYS = {
    "half": (),
    "fp8": ("--precision", "fp8"),
    "fp8-by-4": ("--precision", "fp8", "--batch-size", "4"),
    "fp8-by-8": ("--precision", "fp8", "--batch-size", "8"),
    "devices-1": ("--devices", "cuda:0"),
    "devices": ("--devices", "cuda:0,cuda:1"),
    "fp8-devices": ("--precision", "fp8", "--devices", "cuda:0,cuda:1"),
    "ray-1": ("--ray", "local", "--actors", "1"),
    "ray-2": ("--ray", "local", "--actors", "2"),
}
USUAL = "half,fp8,fp8-by-8,devices"


def measure(way: str, folder: Path, model: list[str]) -> str:
    output = folder / way
    command = [sys.executable, "-m", "ipa_cli", "batch", str(folder / "jobs.jsonl"), *model, *WAYS[way]]
    began, started = time.perf_counter(), time.time()
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([*command, "--output", str(output), "--json"], stdout=subprocess.PIPE, text=True, env=environ)
    total = time.perf_counter() - began
    if ran.returncode:
        return f"{way:12} failed with status {ran.returncode}: {ran.stdout[-300:]}"
    times = sorted(path.stat().st_mtime for path in output.glob("pictures/*.png"))
    speed = (len(times) - FIRST) / (times[-1] - times[FIRST - 1])
    start = times[0] - started
    return f"{way:12} {speed:6.3f}       {start:6.1f}    {total:6.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=256)
    parser.add_argument("--ways", default=USUAL, help=f"of {', '.join(WAYS)}")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="the demo model on a CPU, to try the script")
    given = parser.parse_args()
    model = ["--model", "sdxl", "--load-format", "dummy", "--size", "1024x1024", "--guidance-scale", "8"]
    if given.small:
        model = ["--size", "64x64", "--backend", "eager"]
    model += ["--steps", str(given.steps)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="ipa-throughput-") as scratch:
        folder = Path(scratch)
        from PIL import Image

        for n in range(8):
            Image.new("RGB", (512, 512), (32 * n, 255 - 32 * n, 128)).save(folder / f"{n}.png")
        with (folder / "jobs.jsonl").open("w") as lines:
            for n in range(given.jobs):
                job = {"id": f"job-{n:04}", "prompt": f"a star in picture {n}", "seed": n, "image": f"{n % 8}.png"}
                lines.write(json.dumps(job) + "\n")
        for way in given.ways.split(","):
            rows.append(measure(way, folder, model))
            print(rows[-1], file=sys.stderr, flush=True)
    print("way          pictures/s   to the first s   whole s")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
