"""`--step-cache deep:N`: steps a second, and how far its pictures are from exact ones, beside taking fewer steps.

    python benchmarks/step_cache.py [--parts speed,quality] [--model sdxl] [--backends eager,inductor] [--pictures 4]

`speed` draws with random weights; `quality` draws with the demo model, once exactly, then with the deep part in every
N-th step, and with as many fewer steps as take the same time: by its own calls, or with --share by the share of a whole
call that a shallow one takes in another model. Graphs come from the cache or are compiled first. Prints a short table
last.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[0] = str(
    Path(__file__).resolve().parent.parent
)  # in place of this folder, whose files have names of libraries

EVERY, STEPS = (1, 2, 3, 5), 30
PROMPTS = ("a large red star in the middle", "three hearts", "a blue circle and a square", "a green ring")


def opened(**changes: Any) -> tuple[Any, Any]:
    """An engine, and what makes a request of settings."""
    from ipa_cli.config import Settings
    from ipa_cli.engine.engine import Engine
    from ipa_cli.models.plan import DEMO, make_plan
    from ipa_cli.pipeline.references import load_references
    from ipa_cli.pipeline.task import make_request
    from ipa_cli.result import NullReporter

    settings = Settings(
        **{"prompt": "a fox", "image": (str(DEMO / "reference.png"),), "steps": STEPS, "seed": 1, **changes}
    )
    plan = make_plan(settings)

    def request(**more: Any) -> Any:
        from dataclasses import replace

        asked = replace(settings, **more)
        return make_request(asked, plan, load_references(asked, NullReporter()))

    return Engine.open(settings, plan, NullReporter()), request


def speed(asked: argparse.Namespace) -> Iterator[str]:
    """Steps a second, the best of three pictures, and the share of a whole call that a shallow one takes."""
    for backend in asked.backends.split(","):
        engine, request = opened(model=asked.model, load_format="dummy", backend=backend)
        rates = {}
        for every in EVERY:
            one = request(step_cache=f"deep:{every}")
            engine.prepare(one)
            engine.time_step(one)
            rates[every] = max(engine.draw(one).it_per_s for _ in range(3))
        whole, fifth = 1 / rates[1], 1 / rates[5]
        share = (5 * fifth - whole) / 4 / whole
        steps = "  ".join(f"N={every} {rate:6.1f} it/s ({rate / rates[1]:.2f} x)" for every, rate in rates.items())
        yield f"{asked.model} {backend:9} {steps}  a shallow call takes {share:.0%} of a whole one"
        engine.close()


def quality(asked: argparse.Namespace) -> Iterator[str]:
    """PSNR against the exact pictures, mean and worst, for each N and for the fewer steps that take the same time."""
    engine, request = opened()

    def drawn(**changes: Any) -> list[Any]:
        import numpy as np

        pictures = (
            engine.draw(request(prompt=PROMPTS[n % len(PROMPTS)], seed=n, **changes)) for n in range(asked.pictures)
        )
        return [np.asarray(one.images[0], float) for one in pictures]

    exact = drawn()
    for _ in range(2):
        times = {every: engine.time_step(request(step_cache=f"deep:{every}")) for every in (1, 20)}
    share = asked.share or (20 * times[20] / times[1] - 1) / 19
    yield f"demo, {STEPS} steps, {asked.pictures} pictures; a shallow call takes {share:.0%} of a whole one"
    for every in EVERY[1:]:
        calls = -(-STEPS // every)
        fewer = max(1, round(calls + (STEPS - calls) * share))
        cached, less = psnr(drawn(step_cache=f"deep:{every}"), exact), psnr(drawn(steps=fewer), exact)
        yield f"deep:{every}  {cached}   in the time of {fewer} steps, which give {less}"


def psnr(pictures: list[Any], exact: list[Any]) -> str:
    """Mean and worst of several, in dB."""
    import numpy as np

    found = [
        10 * float(np.log10(255**2 / max(float(((one - other) ** 2).mean()), 1e-9)))
        for one, other in zip(pictures, exact, strict=True)
    ]
    return f"{statistics.mean(found):5.1f} dB (worst {min(found):5.1f})"


def main() -> None:
    """Measure the chosen parts, print a short table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="speed,quality")
    parser.add_argument("--model", default="sdxl")
    parser.add_argument("--backends", default="eager,inductor")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--share", type=float)
    asked, rows = parser.parse_args(), []
    for part in asked.parts.split(","):
        for row in {"speed": speed, "quality": quality}[part](asked):
            print(row, flush=True)
            rows.append(row)
    print("\n".join(rows))


if __name__ == "__main__":
    main()
