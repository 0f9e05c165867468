"""One picture on two GPUs (`--gpus 2`) beside one GPU: steps a second, error, whole processes, and a worker that dies.

    python benchmarks/two_gpus.py [--parts eager,half,fp8,process,kill,hang] [--cache FOLDER] [--tiny]

The steps are those of one engine with random weights, with and without its second GPU; graphs come from the cache or
are compiled first, four of them for `half,fp8`. `process` writes a model folder of 11 GB and times `ipa generate` from
outside; `hang` stops the worker and takes the longest wait, a minute. On a machine without GPUs `--tiny` runs it all
on the CPU, to see that it works. Each call is also compared with the eager UNet, by rows, before and after drawing, so
that a wrong one is known from the right one. Prints a short table last.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose files have names that libraries look for

from benchmarks import process  # noqa: E402

KINDS = {
    "eager": {"backend": "eager"},
    "half": {"backend": "inductor"},
    "fp8": {"backend": "inductor", "precision": "fp8"},
}
STEPS, PICTURES = 30, 3


def settings(asked: argparse.Namespace, **more: Any) -> Any:
    """Those of a picture with a reference."""
    from ipa_cli.config import Settings

    picture = {"prompt": "a red fox in the snow", "image": (str(process.DEMO / "reference.png"),), "seed": 1}
    model = {"model": "demo", "device": "cpu"} if asked.tiny else {"model": "sdxl"}
    plain = {**picture, **model, "load_format": "dummy", "steps": STEPS, "cache_dir": Path(asked.cache), "gpus": 2}
    return Settings(**{**plain, **more})


def steps(asked: argparse.Namespace, name: str) -> str:
    """One engine, whose second GPU is left out for the first figures: a line of the table."""
    import numpy as np
    import torch

    from ipa_cli.engine.engine import Engine
    from ipa_cli.models.plan import make_plan
    from ipa_cli.pipeline.references import load_references
    from ipa_cli.pipeline.task import make_request
    from ipa_cli.result import NullReporter

    kind = {"backend": "eager"} if asked.tiny else KINDS[name]
    wanted, reporter = settings(asked, **kind), NullReporter()
    plan = make_plan(wanted)
    request = make_request(wanted, plan, load_references(wanted, reporter))
    began = time.perf_counter()
    with closing(Engine.open(wanted, plan, reporter)) as engine:
        loaded = time.perf_counter() - began
        found: dict[int, tuple[float, Any, Any]] = {}
        pair, calls = engine._pair, {}
        with torch.no_grad():
            expected = engine.model.unet(engine.example_inputs(request)).float()

        def call(gpus: int, when: str) -> Any:
            noise = calls[gpus](engine.example_inputs(request)).float()
            rows = " ".join(f"{float((a - b).norm() / b.norm()):.1e}" for a, b in zip(noise, expected, strict=True))
            print(f"{name}: {gpus} GPUs, {when}: rows against the eager UNet {rows}", flush=True)
            return noise

        for gpus in (1, 2):
            engine._denoisers._pair = pair if gpus == 2 else None
            calls[gpus] = engine.prepare(request).denoiser
            engine.warm_up(request)
            call(gpus, "before drawing")
            drawn = [engine.draw(request) for _ in range(PICTURES)]
            noise = call(gpus, "after drawing")
            found[gpus] = max(one.it_per_s for one in drawn), noise, np.asarray(drawn[-1].images[0], float)
            print(f"{name}: {gpus} GPUs: " + " ".join(f"{one.it_per_s:.1f}" for one in drawn), flush=True)
        for gpus in (1, 2):
            call(gpus, "at the end")
    (one, noise1, picture1), (two, noise2, picture2) = found[1], found[2]
    error = float((noise1 - noise2).norm() / noise1.norm())
    square = float(((picture1 - picture2) ** 2).mean())
    psnr = 10 * float(np.log10(255**2 / square)) if square else float("inf")
    return (
        f"{name:8} {one:6.1f} {two:6.1f} it/s {two / one:5.2f} x  error {error:.1e}, picture {psnr:.1f} dB,"
        f" at most {abs(picture1 - picture2).max():.0f} of 255  (opened in {loaded:.1f} s)"
    )


def processes(asked: argparse.Namespace, work: Path) -> list[str]:
    """`ipa generate` on one GPU and on two, twice each, their graphs in the cache."""
    process.write_model(work / "model", asked.tiny)
    (work / "cache").symlink_to(Path(asked.cache).absolute())
    rows = []
    for part in ("30", "two", "30", "two") if asked.tiny else ("compile", "compile2", "30", "two", "30", "two"):
        extra = ["--device", "cpu"] if asked.tiny else []
        rows.append(process.row(part, process.run(part, work / "model", work, extra, 200)))
        print(rows[-1], flush=True)
    return rows


def ended(asked: argparse.Namespace, work: Path, number: signal.Signals) -> str:
    """How long `ipa generate` goes on, and what it says, when its worker gets this signal while it draws."""
    import psutil

    typed = ["generate", "--model", "sdxl", "--load-format", "dummy", "--gpus", "2", "--prompt", "a fox"]
    if asked.tiny:
        typed = ["generate", "--device", "cpu", "--gpus", "2"]
    command = [sys.executable, "-m", "ipa_cli", *typed, "--steps", "1000", "--backend", "eager"]
    command += ["--output", str(work / "never.png"), "--force"]
    with (work / "stderr").open("w") as log:
        running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log)
        while "warming up" not in (work / "stderr").read_text() and running.poll() is None:
            time.sleep(0.1)
        time.sleep(5)
        workers = [one for one in psutil.Process(running.pid).children(recursive=True) if one.is_running()]
        for one in workers:
            one.send_signal(number)
        began = time.monotonic()
        try:
            code: Any = running.wait(150)
        except subprocess.TimeoutExpired:
            running.kill()
            code = "none: it hung"
    took, left = time.monotonic() - began, sum(one.is_running() for one in workers)
    said = (work / "stderr").read_text().strip().splitlines()[-2:]
    return f"{number.name}: status {code} after {took:.1f} s, {left} processes left; it said: {' | '.join(said)}"


def main() -> None:
    """Measure the chosen parts, print a short table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="eager,half,fp8,process,kill")
    parser.add_argument("--cache", default=str(Path(tempfile.gettempdir(), "ipa-two-gpus")))
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    Path(asked.cache).mkdir(mode=0o700, parents=True, exist_ok=True)
    rows, began = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for part in asked.parts.split(","):
            work = Path(folder, part)
            work.mkdir()
            if part in KINDS:
                rows.append(steps(asked, part))
            elif part == "process":
                rows += [process.HEADER, *processes(asked, work)]
            else:
                rows.append(ended(asked, work, signal.SIGKILL if part == "kill" else signal.SIGSTOP))
            print(f"{part} done after {time.perf_counter() - began:.0f} s", flush=True)
    print("\n".join(rows))


if __name__ == "__main__":
    main()
