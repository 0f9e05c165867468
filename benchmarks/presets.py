"""What fewer steps, guidance in part of them and step caches save, and what that costs: the table behind `--preset`.

    python -m benchmarks.presets --quality OUT --judge judge.pt [--pictures 64] [--device cpu] [--sampler euler]
    python -m benchmarks.presets --speed OUT [--precision half] [--repeats 5]

`--quality` draws pictures of one shape with the demo model, each with a reference of its own in a style that training
never saw, eight in a call, once in full and then in every way. Work is counted in rows that the UNet computes, two a
step with guidance, of which a step between of `deep:N` is the share that it takes of a whole call. PSNR is against the
full picture; shapes are judged by the classifier of training/judging.py, whose checkpoint `--judge` names; the style's
distance to the reference is that of training/measure.py. It goes on where it was stopped, from OUT/quality-euler.json:
about half an hour on one processor core.

`--speed` draws with SDXL and its adapter at 1024x1024 with random weights, from a warm engine, a new prompt each time:
about 60 s on an H100, beside compiling the two graphs (half a minute each). Medians, also in OUT/speed-half.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.results import folder

STEPS, GROUP, SEED, SCALE = 30, 8, 20_000, 0.5
IN_PART = {"guidance_start": 0.2, "guidance_end": 0.8}
SAVING: dict[str, dict[str, Any]] = {
    "30 steps": {},
    **{f"{steps} steps": {"steps": steps} for steps in (20, 16, 12, 11)},
    **{f"forecast:{every}": {"step_cache": f"forecast:{every}"} for every in (2, 3)},
    **{f"deep:{every}": {"step_cache": f"deep:{every}"} for every in (2, 3, 5)},
    "guidance in part": IN_PART,
    "guidance in part, 16 steps": {**IN_PART, "steps": 16},
    "guidance in part, forecast:2": {**IN_PART, "step_cache": "forecast:2"},
    "guidance in part, forecast:3": {**IN_PART, "step_cache": "forecast:3"},
    "no guidance": {"guidance_scale": 1.0},
}
WITH_DPM = ("30 steps", "20 steps", "16 steps", "12 steps", "11 steps", "forecast:2", "forecast:3")
WAYS = {"euler": SAVING, "dpm++": {way: {**SAVING[way], "scheduler": "DPM++ 2M Karras"} for way in WITH_DPM}}
FULL = "30 steps"
DEEP_SHARE = 0.23  # of a whole call, of the demo model on a CPU: benchmarks/step_cache.py


# --- quality ------------------------------------------------------------------------------------------------------


def quality(asked: argparse.Namespace) -> list[str]:
    """Draw what is missing, a group of pictures in all ways after the other, and return the table."""
    import torch

    from training import measure

    judge = measure.Judge()
    judge.load_state_dict(torch.load(asked.judge, map_location="cpu", weights_only=True)["judge"])
    judge.eval()
    kept = asked.out / f"quality-{asked.sampler}.json"
    found: dict[str, list[dict[str, float]]] = json.loads(kept.read_text()) if kept.exists() else {}
    done = len(found.get(FULL, ()))
    for first in range(done, asked.pictures, GROUP):
        group = Group(asked, first)
        pictures = {way: group.drawn(changes) for way, changes in WAYS[asked.sampler].items()}
        for way, (made, rows) in pictures.items():
            found.setdefault(way, []).extend(group.measured(made, pictures[FULL][0], rows, judge))
        kept.write_text(json.dumps(found) + "\n")
        print("\n".join(table(found)), flush=True)
    return table(found)


class Group:
    """Pictures with a prompt, a seed and a reference each, drawn in one call of the UNet a step."""

    engine: Any = None  # the demo model, opened once

    def __init__(self, asked: argparse.Namespace, first: int):
        import torch

        from ipa_cli.config import Settings
        from ipa_cli.images import reference
        from training import captions
        from training.evaluate import pil, references

        self.settings = Settings(
            device=asked.device,
            backend="eager",
            compile_options='{"cuda_graph": false}',  # whose replays would not count as calls
            dtype="float32",
            scale=SCALE,
            steps=STEPS,
        )
        if Group.engine is None:
            from ipa_cli.engine.engine import Engine
            from ipa_cli.models.plan import make_plan
            from ipa_cli.result import NullReporter

            Group.engine = Engine.open(self.settings, make_plan(self.settings), NullReporter())
        self.first, generator = first, torch.Generator().manual_seed(SEED + first)
        self.shown = references(GROUP, generator)[1]
        self.pictures = [reference.of_image(pil(one), False) for one in self.shown]
        numbers = torch.arange(first, first + GROUP)
        self.shapes = numbers % len(captions.KINDS)
        free = torch.full_like(self.shapes, captions.NONE)
        rest = dict.fromkeys(("second", "relation", "colour", "ground", "place", "size"), free)
        content = captions.Content(**{**rest, "kind": self.shapes, "count": torch.ones_like(free)})
        self.prompts = captions.captions(content, SEED + first)

    def drawn(self, changes: dict[str, Any]) -> tuple[Any, float]:
        """The pictures (N, 3, H, W) in 0 to 1, and the rows that the UNet computed for one of them."""
        import numpy as np
        import torch

        engine, rows = self.engine, [0.0]

        def counted(_: Any, given: tuple[Any, ...]) -> None:
            between = given[0].deep is not None and given[0].deep.states is not None
            rows[0] += len(given[0].sample) / GROUP * (DEEP_SHARE if between else 1)

        hook = engine.model.unet.register_forward_pre_hook(counted)
        try:
            made = engine.draw_together([self._request(number, changes) for number in range(GROUP)])
        finally:
            hook.remove()
        pixels = np.stack([np.asarray(one.images[0], np.float32) / 255 for one in made])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), rows[0]

    def _request(self, number: int, changes: dict[str, Any]) -> Any:
        from dataclasses import replace

        from ipa_cli.pipeline.references import InMemory, load_references
        from ipa_cli.pipeline.task import make_request
        from ipa_cli.result import NullReporter

        picture = self.pictures[number]
        settings = replace(
            self.settings,
            prompt=self.prompts[number],
            image=(picture.source,),
            seed=SEED + self.first + number,
            **changes,
        )
        loaded = load_references(settings, NullReporter(), InMemory({(picture.source, False): picture}))
        return make_request(settings, self.engine.plan, loaded)

    def measured(self, made: Any, exact: Any, rows: float, judge: Any) -> Iterator[dict[str, float]]:
        """What is measured of each picture."""
        import torch

        from training import measure

        with torch.no_grad():
            right = judge(made)["kind"].argmax(1) == self.shapes
        style = measure.style_distance(measure.style_features(made), measure.style_features(self.shown)).diagonal()
        errors = (made - exact).square().flatten(1).mean(1)
        for error, one, distance in zip(errors, right, style, strict=True):
            psnr = min(99.0, -10 * math.log10(max(float(error), 1e-10)))
            yield {"rows": rows, "psnr": psnr, "shape": float(one), "style": float(distance)}


def table(found: dict[str, list[dict[str, float]]]) -> list[str]:
    """A line for each way, by the work that it takes."""
    lines = [
        f"| {len(found[FULL])} pictures | work | PSNR, mean and worst | shape right | style distance |",
        "|---" * 5 + "|",
    ]
    whole = found[FULL][0]["rows"]
    for way in found:
        each = {name: [one[name] for one in found[way]] for name in ("rows", "psnr", "shape", "style")}
        mean = {name: statistics.mean(values) for name, values in each.items()}
        psnr = "" if way == FULL else f"{mean['psnr']:.1f} dB ({min(each['psnr']):.1f})"
        lines.append(f"| {way} | {mean['rows'] / whole:.0%} | {psnr} | {mean['shape']:.0%} | {mean['style']:.3f} |")
    return lines


# --- speed --------------------------------------------------------------------------------------------------------

TIMED: tuple[str, ...] = (
    *(FULL, "16 steps", "11 steps", "forecast:2", "forecast:3", "deep:2", "deep:3", "guidance in part"),
    *("guidance in part, forecast:2", "guidance in part, forecast:3"),
)


def speed(asked: argparse.Namespace) -> list[str]:
    """Seconds of the steps and in all, of each of `TIMED`, and of the presets."""
    import ipa_cli

    rows, kept = {}, {}
    lines = [f"| {asked.precision} | steps, s | it/s | in all, s | of the first |", "|---" * 5 + "|"]
    usual = {"steps": STEPS, "guidance_scale": 5.0, "width": asked.size, "height": asked.size}
    open_with: dict[str, Any] = {"load_format": "dummy", "precision": asked.precision, "backend": asked.backend}
    ways = {**{way: SAVING[way] for way in TIMED}, **{f"--preset {name}": {"preset": name} for name in presets()}}
    with ipa_cli.open(asked.model, adapter="own", progress=False, **open_with) as engine:
        print(engine.device, asked.precision, flush=True)
        for way, changes in ways.items():
            timings = [
                engine.draw(f"a red fox in the snow, picture {number}", seed=number, **{**usual, **changes}).timings
                for number in range(asked.repeats + 1)
            ][1:]
            rows[way] = {name: statistics.median(one[name] for one in timings) for name in timings[0]}
            kept[way] = timings
            one, whole = rows[way], rows[FULL]["total_s"]
            lines.append(
                f"| {way} | {one['steps_s']:.3f} | {one['it_per_s']:.1f} | {one['total_s']:.3f} "
                f"| {one['total_s'] / whole:.0%} |"
            )
            print(lines[-1], flush=True)
            (asked.out / f"speed-{asked.precision}.json").write_text(json.dumps(kept, indent=1) + "\n")
    return lines


def presets() -> tuple[str, ...]:
    """The presets that any model has."""
    from ipa_cli.config.presets import SPEED

    return tuple(SPEED)


def main() -> None:
    """Measure one of the two, print a short table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--quality", action="store_true")
    what.add_argument("--speed", action="store_true")
    parser.add_argument("out", type=folder)
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sampler", choices=tuple(WAYS), default="euler")
    parser.add_argument("--model", default="sdxl")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--precision", default="half")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    if asked.quality and asked.judge is None:
        parser.error("--quality needs --judge")
    print("\n".join(["", *(quality(asked) if asked.quality else speed(asked))]))


if __name__ == "__main__":
    main()
