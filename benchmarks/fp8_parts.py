"""What of the UNet to compute in fp8: steps a second, error and latents by candidate, for one picture and four at once.

    python benchmarks/fp8_parts.py OUT [--parts fp8,to_q,out,all,linear,half] [--pictures 1,4] [--seconds 190]

Full size with random weights, 1024x1024 with guidance. The error is that of one call against the eager UNet in half
precision, the PSNR that of the latents after 20 steps of Euler's method by it, for one picture. All candidates are
compiled side by side, and what is alike in them once: 140 to 190 s with 16 cores, half of them for one picture.
OUT has all figures so far. `--tiny` is for a CPU, with a tiny UNet whose parts are not compiled unless by `--compile`.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch  # noqa: E402

from benchmarks import graph  # noqa: E402
from benchmarks.results import folder  # noqa: E402
from ipa_cli.backends.inductor import backend, compilation, loading, regions, worker_pool  # noqa: E402
from ipa_cli.backends.inductor.blocks import TransformerBlock  # noqa: E402
from ipa_cli.backends.inductor.kernel_options import CONVOLUTIONS, LINEAR  # noqa: E402
from ipa_cli.backends.inductor.partition import partition, run_parts  # noqa: E402

USUAL = tuple(backend.PRESETS["fast"]["fp8_layers"])
OUT = ("attn1.to_out.0", "attn2.to_out.0")
PARTS: dict[str, dict[str, Any]] = {
    "half": {"precision": "half"},
    "fp8": {"fp8_layers": USUAL},
    "to_q": {"fp8_layers": (*USUAL, "attn2.to_q")},
    "out": {"fp8_layers": (*USUAL, *OUT)},
    "all": {"fp8_layers": (*LINEAR, *CONVOLUTIONS)},
    "linear": {"fp8_layers": [name for name in USUAL if name not in CONVOLUTIONS]},
    "no-norms": {"fp8_layers": USUAL, "tuning": {"norm_quantize": None}},  # as before our kernel for layer norms
    "rows-128": {"fp8_layers": USUAL, "tuning": {"cross_attention": [128, 128, 4]}},  # as before [64, 128, 4]
}
STEPS = 20  # on a GPU
GUIDANCE = 5.0


class Compiler:
    """Compiles what candidates are made of, each kind of part once."""

    def __init__(self, unet: Any, work: Path, submit: worker_pool.Submit):
        self._unet, self._work, self._submit = unet, work, submit
        self._jobs: dict[Any, tuple[Path, Future]] = {}

    def begin(self, name: str, options: dict[str, Any], example: Any) -> Callable[[], Path]:
        """Have the parts for a candidate compiled; the result waits for them and gives the folder of the graph."""
        target = folder(str(self._work / name))
        kernels = loading.kernel_options(options, self._unet.device)
        parts = partition(self._unet, kernels, example.context)
        found = regions.find(self._unet, parts, example, False)
        packages = {}
        for region in found:
            part = parts[region.parts[0]]
            chosen = kernels.tuning if isinstance(part.module, TransformerBlock) else None  # no other part has any
            key = (regions._fingerprint(part.module), region.weight_layouts, region.inputs, chosen)
            if key not in self._jobs:
                self._jobs[key] = self._job(part, region, options)
            packages[region.name] = self._jobs[key]
        plan = {"sample": list(example.sample.shape), "dynamic": None, "text": None}
        plan["regions"] = [region._asdict() for region in found]
        (target / loading.PLAN).write_text(json.dumps(plan))

        def wait() -> Path:
            errors = {}
            for region_name, (package, job) in packages.items():
                errors[job.result()["error"]] = region_name
                shutil.copy(package, target / f"{region_name}.pt2")
            print(f"{name}: compiled parts are at most {max(errors):.1e} from uncompiled ({errors[max(errors)]})")
            return target

        return wait

    def _job(self, part: Any, region: Any, options: dict[str, Any]) -> tuple[Path, Future]:
        own = self._work / f"part-{len(self._jobs)}"
        exported = regions.export(part, region, None)
        exported._example_inputs = None
        torch.export.save(exported, own.with_suffix(".program.pt2"))
        job = {
            "program": str(own.with_suffix(".program.pt2")),
            "package": str(own.with_suffix(".pt2")),
            "inputs": [region.weight_layouts, region.inputs],
            "device": str(self._unet.device),
            "config": compilation.inductor_settings(options, 2),
        }
        return own.with_suffix(".pt2"), self._submit(job)


def uncompiled(unet: Any, options: dict[str, Any], example: Any) -> Callable[[Any], Any]:
    """The parts as PyTorch computes them."""
    parts = partition(unet, loading.kernel_options(options, unet.device), example.context)
    return lambda given: run_parts(unet, parts, given, lambda name, tensors: parts[name](tensors))


def latents(call: Callable[[Any], Any], example: Any) -> Any:
    """What Euler's method makes of the example's noise, with SDXL's noise levels."""
    steps = STEPS if example.sample.is_cuda else 2
    from dataclasses import replace

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    levels = ((1 - (1 - betas).cumprod(0)) / (1 - betas).cumprod(0)) ** 0.5
    times = torch.linspace(999, 0, steps).round().long()
    sigma = torch.cat([levels[times], torch.zeros(1, dtype=torch.float64)])
    states = example.sample[:1].float() * float(sigma[0])
    for step in range(steps):
        given = (states / float((sigma[step] ** 2 + 1) ** 0.5)).to(example.sample.dtype).repeat(2, 1, 1, 1)
        timestep = torch.tensor(float(times[step]), device=states.device)
        negative, positive = call(replace(example, sample=given, timestep=timestep)).float().chunk(2)
        noise = negative + GUIDANCE * (positive - negative)
        states = states + noise * float(sigma[step + 1] - sigma[step])
    return states


def psnr(found: Any, expected: Any) -> float:
    """dB, of the range of what is expected."""
    square = float((found.double() - expected.double()).square().mean())
    return 10 * torch.log10((expected.max() - expected.min()).double() ** 2 / square).item() if square else float("inf")


HEADER = f"{'':10} {'at once':>7} {'ms':>7} {'it/s':>6} {'pictures':>8} {'error':>8} {'latents':>8}  kernels, ms"


def line(row: dict[str, Any]) -> str:
    """A row of the table; `pictures` are steps a second for each picture."""
    if "failed" in row:
        return f"{row['part']:10} {row['pictures']:7} {row['failed']}"
    kinds = ", ".join(f"{name} {ms:.2f} ({count})" for name, count, ms, _ in row.get("kinds", []))
    return (
        f"{row['part']:10} {row['pictures']:7} {row['ms']:7.2f} {row['it_s']:6.2f} {row['it_s'] * row['pictures']:8.2f}"
        f" {row['error']:8.1e} {row.get('psnr', float('nan')):5.1f} dB  {kinds}"
    )


def measure(call: Any, example: Any, expected: Any, drawn: Any, pictures: int) -> dict[str, Any]:
    """The figures of one candidate."""
    row: dict[str, Any] = {"error": graph.relative(call(example), expected)}
    row["ms"] = graph.pipelined(lambda: call(example), 3 if not torch.cuda.is_available() else 40 // pictures)
    row["it_s"] = 1e3 / row["ms"]
    if drawn is not None:
        row["psnr"] = psnr(latents(call, example), drawn)
    if torch.cuda.is_available():
        row["kinds"], longest = graph.profiled(lambda: call(example))
        row["longest"] = longest[:40]
    return row


@torch.no_grad()
def main() -> None:
    """Compile and measure the candidates, print a table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=folder)
    parser.add_argument("--parts", default="fp8,to_q,out,all,rows-128", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--pictures", default="1,4")
    parser.add_argument("--seconds", type=float, default=190, help="nothing is begun after so long")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    began = time.perf_counter()
    cuda = torch.cuda.is_available() and not asked.tiny
    device, dtype = ("cuda", torch.float16) if cuda else ("cpu", torch.float32)
    unet, adapters = graph.build(graph.TINY if asked.tiny else graph.SDXL, device, dtype)
    unet.to(memory_format=torch.channels_last)
    machine = torch.cuda.get_device_name() if cuda else "cpu"
    rows: list[dict[str, Any]] = []

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - began:6.1f}] {text}", flush=True)

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        say(line(row))
        kept = {"torch": torch.__version__, "device": machine, "rows": rows}
        (asked.out / "fp8_parts.json").write_text(json.dumps(kept, indent=1))

    say(f"torch {torch.__version__}, {machine}")
    with tempfile.TemporaryDirectory() as work:
        compiled = cuda or asked.compile
        with worker_pool.started(Path(work), compilation._worker_count(unet) if compiled else 1) as submit:
            compiler = Compiler(unet, Path(work), submit)
            for pictures in map(int, asked.pictures.split(",")):
                example = graph.inputs(unet, adapters, 64 if asked.tiny else 1024, 1.0, pictures)
                expected, drawn = unet(example), latents(unet, example) if pictures == 1 else None
                waiting: dict[str, tuple[dict[str, Any], Any]] = {}
                for part in asked.parts.split(","):
                    if time.perf_counter() - began > asked.seconds:
                        break
                    given = {"precision": "fp8", **PARTS[part]}
                    options = backend.options({k: list(v) if k == "fp8_layers" else v for k, v in given.items()})
                    try:
                        begun = compiler.begin(f"{part}-{pictures}", options, example) if compiled else None
                    except Exception as error:
                        add({"part": part, "pictures": pictures, "failed": f"{type(error).__name__}: {error}"[:200]})
                        continue
                    waiting[part] = options, begun
                    say(f"{part}, {pictures} at once: traced")
                folders: dict[str, Path] = {}
                for part, (_, begun) in waiting.items():  # all, or they would compile while others are measured
                    try:
                        folders[part] = begun() if begun else Path()
                    except Exception as error:
                        add({"part": part, "pictures": pictures, "failed": f"{type(error).__name__}: {error}"[:200]})
                say("all compiled")
                for part in folders:
                    options = waiting[part][0]
                    try:
                        load = backend.load if compiled else None
                        call = load(unet, folders[part], options) if load else uncompiled(unet, options, example)
                        figures = measure(call, example, expected, drawn, pictures)
                    except Exception as error:
                        figures = {"failed": f"{type(error).__name__}: {error}"[:200]}
                    add({"part": part, "pictures": pictures, **figures})
                    call = None
                    gc.collect()
    print(f"torch {torch.__version__}, {machine}\n{HEADER}")
    print("\n".join(line(row) for row in rows))


if __name__ == "__main__":
    main()
