"""`ipa serve` on one GPU or CPU: how long a request takes, how many pictures clients get, and what memory does.

    python benchmarks/serve.py --model FOLDER [--parts one,clients,loop,memory] [--requests 200] [flags of ipa serve]

`one`: requests one after the other, 30 steps, each with a new prompt; `clients`: 16 at once, 20 steps; `loop`: the same
pictures in one process by `ipa_cli.open`; `memory`: requests of mixed size and scale. Prints a short table last; a JSON
file goes to $OUT when that is set. benchmarks/process.py writes a model folder of full size.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose files have names that libraries look for

from benchmarks.timed_process import Record  # noqa: E402

REFERENCE = ROOT / "ipa_cli" / "demo" / "reference.png"
CLIENTS, EACH = 16, 4
SIZES = ((1024, 1024), (832, 1216), (512, 512), (1216, 832), (768, 768))
TINY = ((128, 128), (64, 128), (64, 64), (128, 64), (96, 96))
LOOP = """
import json, sys, time, io
import ipa_cli
from concurrent.futures import ThreadPoolExecutor
model, reference, count, steps, folder = *sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
with ipa_cli.open(model, image=reference, progress=False) as engine, ThreadPoolExecutor(2) as writer:
    engine.draw("warm", steps=2, seed=0)
    began = time.perf_counter()
    saving = [
        writer.submit(engine.draw(f"a red fox, number {n}", steps=steps, seed=n).save, f"{folder}/{n}.png")
        for n in range(count)
    ]
    [one.result() for one in saving]
    print(json.dumps(count / (time.perf_counter() - began)))
"""


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, float]]:
    """The URL of a server, and the seconds until it was ready."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "ipa_cli", "serve", "--port", "0", "--max-queue", "1000", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        url, said = "", []
        for line in process.stderr:
            said.append(line)
            if found := re.match(r"listening on (\S+)", line):
                url = found[1]
            if line == "ready\n":
                break
        else:
            raise SystemExit("".join(said))
        with ThreadPoolExecutor(1) as reader:
            reader.submit(process.stderr.read)
            try:
                yield url, time.perf_counter() - began
            finally:
                process.terminate()
                process.wait()


def ask(url: str, **settings: Any) -> tuple[float, dict[str, Any]]:
    """Seconds from sending a request to having its picture, and the job as it ended."""
    began = time.perf_counter()
    sent = Request(f"{url}/v1/jobs", json.dumps(settings).encode(), {"Content-Type": "application/json"})
    with urlopen(sent) as answer:
        job = json.load(answer)["data"]
    with urlopen(f"{url}/v1/jobs/{job['id']}/events") as events:
        last = [line for line in events if line.startswith(b"data: ")][-1]
    job = json.loads(last[6:])
    if job["status"] != "done":
        raise SystemExit(f"{job['status']}: {job['error']}")
    with urlopen(url + job["pictures"][0]["url"]) as answer:
        assert answer.read(8) == b"\x89PNG\r\n\x1a\n"
        answer.read()
    return time.perf_counter() - began, job


def one_by_one(url: str, count: int, steps: int) -> dict[str, Any]:
    """Times of requests that nobody else disturbs, and what they take on top of their steps."""
    for seed in range(3):
        ask(url, prompt=f"warm {seed}", steps=steps, seed=seed)
    took = [ask(url, prompt=f"a red fox, number {seed}", steps=steps, seed=seed) for seed in range(count)]
    over = [seconds - job["timings"]["steps_s"] for seconds, job in took]
    return {
        "p50_s": statistics.median(seconds for seconds, _ in took),
        "p50_over_steps_s": statistics.median(over),
        "worst_over_steps_s": max(over),
        "it_per_s": statistics.median(job["timings"]["it_per_s"] for _, job in took),
    }


def at_once(url: str, steps: int) -> dict[str, Any]:
    """Pictures a second of many clients."""
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        numbers = range(CLIENTS * EACH)
        took = list(pool.map(lambda n: ask(url, prompt=f"a red fox, number {n}", steps=steps, seed=n), numbers))
    return {"pictures_per_s": len(took) / (time.perf_counter() - began)}


def memory(url: str, count: int, tiny: bool, loras: Sequence[str]) -> dict[str, Any]:
    """Memory in MiB after each tenth of `count` requests of mixed size, steps, scale and LoRAs."""
    held: list[dict[str, float]] = []
    for number in range(count):
        width, height = (TINY if tiny else SIZES)[number % 5]
        prompt = f"a fox, number {number % 97}"
        if loras and number % 3:
            prompt += f" <lora:{loras[number % len(loras)]}:{number % 4 / 4 + 0.1}>"
        ask(url, prompt=prompt, seed=number, width=width, height=height, steps=2 + number % 3, scale=number % 11 / 10)
        if (number + 1) % max(1, count // 10) == 0:
            with urlopen(f"{url}/metrics") as answer:
                text = answer.read().decode()
            names = ("process_resident_memory_bytes", "ipa_memory_reserved_bytes", "ipa_memory_peak_bytes")
            found = {name: re.search(rf"^{name}\S* (\S+)$", text, re.M) for name in names}
            held.append({name: float(one[1]) for name, one in found.items() if one})
    return {name: [round(one[name] / 2**20) for one in held] for name in held[0]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="demo")
    parser.add_argument("--parts", default="one,clients,loop,memory")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--loras", help="names in the folder of --lora-dir, for prompts of the part memory")
    given, flags = parser.parse_known_args()
    parts, tiny, record = given.parts.split(","), given.model == "demo", Record("serve.json")
    common = ("--model", given.model, "--image", str(REFERENCE), *flags)
    rows: list[str] = []
    if {"one", "clients"} & set(parts):
        with serving(*common) as (url, ready_s):
            rows.append(f"ready after {ready_s:.1f} s")
            if "one" in parts:
                record.add("one", found := one_by_one(url, 20, 30))
                rows.append(
                    f"one request, 30 steps: p50 {found['p50_s']:.3f} s, steps + {found['p50_over_steps_s']:.3f} s "
                    f"(worst + {found['worst_over_steps_s']:.3f}), {found['it_per_s']:.1f} it/s"
                )
            if "clients" in parts:
                record.add("clients", found := at_once(url, 20))
                rows.append(f"{CLIENTS} clients, 20 steps: {found['pictures_per_s']:.3f} pictures/s")
    if "loop" in parts:
        with tempfile.TemporaryDirectory() as folder:
            arguments = (given.model, str(REFERENCE), str(CLIENTS * EACH), "20", folder)
            done = subprocess.run([sys.executable, "-c", LOOP, *arguments], capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise SystemExit(done.stderr)
        record.add("loop", {"pictures_per_s": json.loads(done.stdout)})
        rows.append(f"a loop in one process: {float(done.stdout):.3f} pictures/s")
    if "memory" in parts:
        with serving(*common, "--no-compile") as (url, _):
            record.add(
                "memory", found := memory(url, given.requests, tiny, given.loras.split(",") if given.loras else ())
            )
        rows += [f"{name}, MiB: {values}" for name, values in found.items()]
    print(*rows, sep="\n")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
