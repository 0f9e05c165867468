"""Pictures a second of `ipa batch`, full-size SDXL and IP-Adapter of random weights, from first job to last file.

    python benchmarks/throughput.py OUT                                   fp8 on one GPU, 8 pictures at once
    python benchmarks/throughput.py OUT --ways fp8-by-8,fp8 --profile fp8-by-8
    python benchmarks/throughput.py OUT --jobs 128 --ways fp8-by-8-on-1,fp8-by-8-on-2,fp8-by-8-on-2-killed
    python benchmarks/throughput.py OUT --jobs 128 --ways half-by-8-ray-1,half-by-8-ray-2,half-by-8-ray-2-killed

A way is PRECISION[-by-PICTURES][-on-GPUS | -ray-GPUS][-killed]: half or fp8, how many pictures share the UNet's calls,
`--devices` or actors of a Ray cluster on this machine, and whether one of the processes is killed when a third
is done. `benchmarks/scaling.py` makes a table and a plot of several.

1024 pixels, 20 steps, guidance 8, a prompt of its own for each picture, eight references in turn, --jobs for each GPU.
Graphs are compiled first, once for all ways (the cache is beside OUT), and timed apart; then each way is a process of
its own. The figure is (jobs - 16) over the seconds from the 16th picture's file to the last one's, 16 for each GPU.
`steps` and `decode` are a picture's share of the GPU's time between events, `rest` what is left of the whole: encoding,
and the GPU waiting. Each way has a limit of time, and none begins that does not fit into --seconds.
OUT/throughput.jsonl has a line for each as it ends.

--profile runs one way's steps in this process: where the GPU's time goes, what makes the host wait for it, and what a
picture takes beside the steps (`benchmarks/batch_spans.py`). Each part is printed and kept as it ends; all take about a
minute where the graphs are in the cache. The last lines are a table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose files have names that libraries look for

from benchmarks.results import folder  # noqa: E402
from benchmarks.scaling import Watch, Way, end, way_of, with_efficiency  # noqa: E402

FIRST = 16  # pictures for each GPU, of which each has drawn some by then
LIMIT = 240.0  # seconds of a way, and of compiling for it
MODEL = ("--model", "sdxl", "--load-format", "dummy", "--size", "1024x1024", "--guidance-scale", "8")
SMALL = ("--size", "64x64", "--backend", "eager")
HEAD = (
    "way                       GPUs  pictures/s  efficiency   s a picture: steps  decode  rest    to the first s"
    "   driver MiB   compiled s   whole s   done"
)


class Measuring:
    """The jobs, the model and the cache that all ways share, and when all must have ended."""

    def __init__(self, given: argparse.Namespace):
        self.out, self.jobs, self.small, self.steps = given.out, given.jobs, given.small, given.steps
        self.end = time.monotonic() + given.seconds
        self.cache = ("--cache-dir", str(self.out.parent / f"{self.out.name}-cache"))
        self.model = SMALL if given.small else MODEL
        self._compiled: set[tuple[str, ...]] = set()
        self._digests: dict[tuple[str, int], dict[str, str]] = {}  # of the pictures of the first such way
        self._draw_references()

    def _draw_references(self) -> None:
        from PIL import Image

        for n in range(8):
            Image.new("RGB", (512, 512), (32 * n, 255 - 32 * n, 128)).save(self.out / f"{n}.png")

    def _write_jobs(self, count: int) -> Path:
        path = self.out / "jobs.jsonl"
        with path.open("w") as lines:
            for n in range(count):
                job = {"id": f"job-{n:04}", "prompt": f"a star in picture {n}", "seed": n, "image": f"{n % 8}.png"}
                lines.write(json.dumps(job) + "\n")
        return path

    def tidy(self) -> None:
        """Leave the figures, and one picture of each way."""
        for path in self.out.iterdir():
            if path.is_dir():
                for picture in sorted(path.glob("pictures/*.png"))[:1]:
                    picture.rename(self.out / f"of-{path.name}.png")
                shutil.rmtree(path)
            elif (path.suffix == ".png" and path.stem.isdigit()) or path.name == "jobs.jsonl":
                path.unlink()

    def run(self, *words: str, watch: Watch | None = None) -> tuple[int | None, str, float]:
        """Exit status, None where it took too long, what it wrote to stdout, and seconds."""
        began, left = time.monotonic(), min(LIMIT, self.end - time.monotonic())
        command = [sys.executable, "-m", "ipa_cli", *words, *self.model, *self.cache, "--json"]
        packages = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": packages},
            start_new_session=True,
        )
        if watch is not None:
            watch.begin(process.pid)
        try:
            said, _ = process.communicate(timeout=max(1.0, left))
            return process.returncode, said, time.monotonic() - began
        except subprocess.TimeoutExpired:
            end(process.pid)
            process.communicate()
            return None, "", time.monotonic() - began

    def compile(self, way: Way) -> dict[str, Any]:
        """Seconds that each graph of a way took to compile, by shape; nothing where it is there."""
        if self.small or way.drawing in self._compiled:
            return {}
        status, said, seconds = self.run("compile", *way.drawing)
        if status != 0:
            raise RuntimeError(f"compiling ended with {status} after {seconds:.0f} s: {said[-300:]}")
        self._compiled.add(way.drawing)
        graphs = json.loads(said)["data"]["graphs"]
        return {one["shape"]: round(one["compile_s"], 1) for one in graphs if one["origin"] == "compiled"}

    def measure(self, way: Way) -> dict[str, Any]:
        found: dict[str, Any] = {"way": way.name, "gpus": way.gpus}
        found["compiled_s"] = self.compile(way)
        output, count = self.out / way.name, self.jobs * way.gpus
        jobs, started = self._write_jobs(count), time.time()
        flags = (*way.drawing, *way.places("cpu" if self.small else "cuda"), "--steps", str(self.steps))
        with Watch(output / "pictures", count // 3 if way.killed else None) as watch:
            ran = self.run("batch", str(jobs), *flags, "--output", str(output), watch=watch)
        status, said, found["whole_s"] = ran
        found |= watch.found(count)
        if status != 0:
            found["failed"] = "took too long" if status is None else f"status {status}: {said[-300:]}"
        times = sorted(path.stat().st_mtime for path in output.glob("pictures/*.png"))
        if times:
            found["first_s"] = times[0] - started
        first = FIRST * way.gpus
        if len(times) > first:
            found["pictures_per_s"] = (len(times) - first) / (times[-1] - times[first - 1])
        lines = [json.loads(line) for path in output.glob("journal/*.jsonl") for line in path.open()]
        for name in ("steps_s", "decode_s"):
            each = sorted(line[name] for line in lines if line[name] is not None)
            if each:
                found[name] = each[len(each) // 2]
        return found | self._results(way, output, count)

    def _results(self, way: Way, output: Path, count: int) -> dict[str, Any]:
        """How many jobs are done, each counted once, and how many are as the first way of the kind drew them."""
        if not (output / "results.jsonl").exists():
            return {}
        results = [json.loads(line) for line in (output / "results.jsonl").open()]
        digests = {one["id"]: one["sha256"] for one in results if one["status"] == "done"}
        first = self._digests.setdefault((way.precision, way.size), digests)
        both = [digests[id] == first[id] for id in digests if id in first]
        return {"jobs": count, "done": len(digests), "compared": len(both), "equal": sum(both)}


def row(found: dict[str, Any]) -> str:
    def number(name: str, width: int, digits: int) -> str:
        return f"{found[name]:{width}.{digits}f}" if name in found else " " * (width - 1) + "-"

    speed = found.get("pictures_per_s")
    if speed and "steps_s" in found:
        found["rest_s"] = found["gpus"] / speed - found["steps_s"] - found["decode_s"]
    compiled = " + ".join(f"{seconds:.0f}" for seconds in found.get("compiled_s", {}).values()) or "-"
    memory = " ".join(f"{value:.0f}" for value in found.get("driver_mib", ())) or "-"
    done = f"{found['done']} of {found['jobs']}, {found['equal']} equal" if "done" in found else ""
    return (
        f"{found['way']:25} {found['gpus']:4}  {number('pictures_per_s', 10, 3)}  {number('efficiency', 10, 3)}"
        f"   {number('steps_s', 18, 4)}  {number('decode_s', 6, 4)}  {number('rest_s', 6, 4)}"
        f"  {number('first_s', 14, 1)}   {memory:>10}   {compiled:>10}   {number('whole_s', 7, 1)}   {done}"
        f"  {found.get('failed', '')}"
    )


def profile(measuring: Measuring, way: Way) -> Iterator[dict[str, Any]]:
    """One after the other: the places that wait for the GPU, milliseconds of a call by kind of kernel, spans."""
    from dataclasses import replace

    import torch

    from benchmarks import batch_spans
    from benchmarks.graph import profiled
    from ipa_cli.config import Settings
    from ipa_cli.engine.engine import Engine
    from ipa_cli.models.plan import make_plan
    from ipa_cli.pipeline.references import load_references
    from ipa_cli.pipeline.task import make_request
    from ipa_cli.result import NullReporter

    reporter, calls, size = NullReporter(), 2, way.size
    plain: dict[str, Any] = {"width": 64, "height": 64, "backend": "eager", "device": "cpu"}
    if not measuring.small:
        plain = {"model": "sdxl", "load_format": "dummy", "width": 1024, "height": 1024, "guidance_scale": 8.0}
        plain["precision"] = way.precision
    settings = Settings(**plain, steps=calls, batch_size=size, cache_dir=Path(measuring.cache[1]))
    plan = make_plan(settings, references_later=True)
    engine = Engine.open(settings, plan, reporter)

    def begin(first: int) -> list[Any]:
        asked = [
            replace(settings, prompt=f"a star {n}", seed=n, image=(str(measuring.out / f"{n % 8}.png"),))
            for n in range(first, first + size)
        ]
        requests = [make_request(one, plan, load_references(one, reporter)) for one in asked]
        return [begun.drawing() for begun in engine.begin(requests)]

    begin(0)
    cuda = engine.device.type == "cuda"
    if cuda:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            begin(1000)
        torch.cuda.set_sync_debug_mode("default")
        yield {"waits": [f"{Path(one.filename).name}:{one.lineno} {str(one.message)[:80]}" for one in said]}
        for part, call in parts(engine, begin).items():
            kinds, longest = profiled(call)
            yield {
                "part": part,
                "kinds": [row[:3] for row in kinds],
                "longest": [(row[0][:110], *row[1:]) for row in longest[:40]],
            }
    yield from batch_spans.measure(engine, replace(settings, steps=6 if cuda else 1), measuring.out)


def parts(engine: Any, begin: Callable[[int], Any]) -> dict[str, Callable[[], Any]]:
    """One call of the UNet with all its rows, as `begin` makes it, and the decoding of one picture."""
    import torch

    from ipa_cli.pipeline.decoding import Decoding

    seen: dict[str, Any] = {}
    networks, find = engine._denoisers.networks, engine._decoders.find

    def spied(*given: Any) -> Any:
        made = networks(*given)

        def unet(*inputs: Any, **others: Any) -> Any:
            seen["unet"] = lambda: made.unet(*inputs, **others)
            return made.unet(*inputs, **others)

        return made._replace(unet=unet)

    def found(*given: Any) -> Any:
        seen["decode"] = find(*given)
        return seen["decode"]

    engine._denoisers.networks, engine._decoders.find = spied, found
    try:
        begin(0)
    finally:
        engine._denoisers.networks, engine._decoders.find = networks, find
    vae, by = engine.model.vae, seen["decode"]
    latents = torch.randn(1, 4, 128, 128, device=engine.device, dtype=vae.dtype)
    how = "no graph in the cache" if by is None else "its graph"
    return {"UNet": seen["unet"], f"decoder of one picture, {how}": lambda: Decoding(vae, latents, by).wait()}


def lines(found: dict[str, Any]) -> list[str]:
    """A part of a profile, for people."""
    from benchmarks import batch_spans

    if "waits" in found:
        return ["  waits for the GPU: " + ("; ".join(found["waits"]) or "none")]
    if "kinds" not in found:
        return batch_spans.lines(found)
    said = [f"{found['part']}: {sum(ms for *_, ms in found['kinds']):.1f} ms; often and ms in one call"]
    said += [f"  {name:14} {count:5} {ms:9.3f}" for name, count, ms in found["kinds"]]
    return said + [
        f"  {count:5} {ms:9.3f}, longest {most:7.3f}  {name}" for name, count, ms, most in found["longest"][:20]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=folder)
    parser.add_argument("--jobs", type=int, default=96, help="for each GPU")
    parser.add_argument("--ways", default="fp8-by-8", help="such as fp8-by-8,fp8-by-8-on-2; empty for none")
    parser.add_argument("--profile", metavar="WAY")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=540, help="when all must have ended")
    parser.add_argument("--small", action="store_true", help="the demo model on a CPU, to try the script")
    given = parser.parse_args()
    ways = [way_of(name) for name in filter(None, given.ways.split(","))]
    measuring = Measuring(given)
    done: list[dict[str, Any]] = []
    rows: list[str] = []

    def keep(found: dict[str, Any]) -> None:
        with (measuring.out / "throughput.jsonl").open("a") as lines:
            lines.write(json.dumps(found) + "\n")

    for way in ways:
        if time.monotonic() + 60 > measuring.end:
            rows.append(f"{way.name:25} not begun: {given.seconds:.0f} s would not do")
            continue
        try:
            found = measuring.measure(way)
        except RuntimeError as error:
            found = {"way": way.name, "gpus": way.gpus, "failed": str(error)}
        done.append(found)
        found = with_efficiency(done)[-1]
        rows.append(row(found))
        keep(found)
        print(f"{HEAD}\n{rows[-1]}", file=sys.stderr, flush=True)
    try:
        if given.profile:
            name = f"profile of {given.profile}"
            print(f"\n{name}", flush=True)
            for found in profile(measuring, way_of(given.profile)):
                keep({"way": name} | found)
                print("\n".join(lines(found)), flush=True)
    finally:
        if not given.small:
            subprocess.run(["nvidia-smi", "--query-gpu=name,power.limit,clocks.max.sm", "--format=csv,noheader"])
        if not given.small:
            measuring.tidy()
        print(HEAD)
        print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
