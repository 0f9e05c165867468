"""Speed with 0, 1, 2 and 3 regions, whose prompts and masks are new for every picture; counts what is captured.

    python benchmarks/regions.py [--model sdxl] [--size 1024] [--repeats 3] [--backends eager,inductor] [--steps 30]

Weights are random (`--load-format dummy`) unless --weights is given: times do not depend on them. A graph for each
number of regions comes from the cache, or is compiled first. Each row is the median of `repeats` pictures after one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# In place of this folder, whose files have names that libraries look for.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import ipa_cli  # noqa: E402
from benchmarks.pictures import HEADER, medians, opened, parser  # noqa: E402


def main() -> None:
    """Draw all rows with one engine for each backend and print a table."""
    arguments = parser(__doc__)
    arguments.add_argument("--backends", default="eager,inductor")
    arguments.add_argument("--steps", type=int, default=30)
    asked, random = arguments.parse_args(), np.random.default_rng(0)

    def mask() -> Image.Image:
        coarse = Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8))
        return coarse.resize((asked.size, asked.size), Image.Resampling.BICUBIC)

    def draw(engine: ipa_cli.Engine, count: int) -> Any:
        own = [{"mask": mask(), "prompt": f"thing number {random.integers(1_000_000)}"} for _ in range(count)]
        settings = {"steps": asked.steps, "guidance_scale": 5.0, "width": asked.size, "height": asked.size}
        return engine.draw("a red fox in the snow", seed=1, region=own, **settings)

    print(f"{asked.model}, {asked.size}x{asked.size}, {asked.steps} steps, random={not asked.weights}")
    print(f"{HEADER} {'peak GiB':>9} {'captured':>9}")
    for backend in asked.backends.split(","):
        with opened(asked, backend=backend) as engine:
            for count in range(4):
                draw(engine, count)  # its graph
                before = captures(engine)
                steps, rate, total = medians(lambda count=count: draw(engine, count), asked.repeats)
                name, peak = f"{backend}, {count} regions", engine.memory()["peak_gib"]
                print(f"{name:<48} {steps:8.3f} {rate:6.1f} {total:8.3f} {peak:9.2f} {captures(engine) - before:9}")


def captures(engine: ipa_cli.Engine) -> int:
    """CUDA graphs captured so far."""
    inner = engine._opened()
    return sum(getattr(ready.denoiser, "captures", 0) for ready in inner._denoisers.opened)


if __name__ == "__main__":
    main()
