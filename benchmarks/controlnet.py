"""One ControlNet beside a full-size SDXL and an IP-Adapter on one GPU: steps a second, compilations, error; diffusers.

    python benchmarks/controlnet.py [--steps 20] [--theirs regional|eager|both|none] [--tiny]

Seeded random weights, 1024x1024, guidance: batch 2. Rows of ours are `eager` and `inductor`, each without and with the
ControlNet; then the scale, the window and the map change, and graphs captured and entries of the cache are counted:
none may be new. The error is that of a call of ControlNet and UNet in fp16 by `inductor` against `eager`. Those of
diffusers are `ControlNetModel` and `UNet2DConditionModel` in turn, plain and with `compile_repeated_blocks`. Needs no
network.
Prints a short table last; a JSON file goes to $OUT when that is set.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose files have names that libraries look for

from benchmarks.timed_process import Record  # noqa: E402

CHANGES = (
    ("scale 0.3", "scale=0.3"),
    ("scale 1.5", "scale=1.5"),
    ("the first half", "end=0.5"),
    ("the second half", "start=0.5"),
    ("another map", "other"),
)


def ours(chosen: Any, work: Path, backend: str) -> dict[str, Any]:
    """One engine without and with a ControlNet, then with what changes."""
    import torch
    from PIL import Image, ImageDraw

    from ipa_cli.config import Settings, controls
    from ipa_cli.engine.engine import Engine
    from ipa_cli.models.plan import make_plan
    from ipa_cli.pipeline.references import load_references
    from ipa_cli.pipeline.residuals import Residuals, inputs
    from ipa_cli.pipeline.task import make_request
    from ipa_cli.result import NullReporter

    quiet, side = NullReporter(), 64 if chosen.tiny else 1024
    for number in range(2):
        picture = Image.new("RGB", (side, side))
        ImageDraw.Draw(picture).ellipse((side // 4, side // 4, side // 2 * (1 + number), side // 2), outline="white")
        picture.save(work / f"map{number}.png")

    def settings(said: str | None) -> Settings:
        map_ = work / ("map1.png" if said == "other" else "map0.png")
        spec = f"random,image={map_}" + (f",{said}" if said and said != "other" else "")
        return Settings(
            model="demo" if chosen.tiny else "sdxl",
            load_format="dummy",
            image=(str(ROOT / "ipa_cli/demo/reference.png"),),
            prompt="a red fox in the snow",
            seed=1,
            steps=chosen.steps,
            backend=backend,
            width=side,
            height=side,
            cache_dir=work / "cache",
            control=(controls.parse(spec, "--control"),),
        )

    base = settings(None)
    plan = make_plan(base)
    engine = Engine.open(base, plan, quiet)

    def request(said: str | None) -> Any:
        asked = settings(said)
        return make_request(asked, plan, load_references(asked, quiet))

    with_map = request(None)
    without = replace(with_map, controls=())
    rows: dict[str, Any] = {}
    for name, one in (("UNet alone", without), ("with a ControlNet", with_map)):
        ready = engine.prepare(one)
        engine.draw(one)
        drawing = engine.draw(one)
        rows[name] = {"it_per_s": drawing.it_per_s, "compile_s": ready.compile_s}

    def counted() -> tuple[int, int]:
        graphs = len(list((work / "cache").rglob("manifest.json")))
        return sum(getattr(ready.denoiser, "captures", 0) for ready in engine._denoisers.opened), graphs

    before = counted()
    for name, said in CHANGES:
        drawing = engine.draw(request(said))
        now = counted()
        rows[name] = {"it_per_s": drawing.it_per_s, "captured": now[0] - before[0], "compiled": now[1] - before[1]}
        before = now
    figures: dict[str, Any] = {"rows": rows, "memory": engine.memory()}
    if backend != "eager":
        conditions = engine._encodings.conditions(with_map)
        given = engine.example_inputs(with_map)
        networks = engine._denoisers.networks(with_map, conditions)
        residuals = networks.controls[0](inputs(conditions.controls[0], given))
        with torch.no_grad():
            plain = engine.model.controls[0](inputs(conditions.controls[0], given))
            noise = networks.unet(Residuals(conditions.controls, networks.controls, 1)(given, None))
            expected = engine.model.unet(replace(given, control=plain))
        each = zip((*residuals.down, residuals.mid), (*plain.down, plain.mid), strict=True)
        figures["error"] = {"residuals": max(_error(*pair) for pair in each), "noise": _error(noise, expected)}
    engine.close()
    return figures


def _error(found: Any, expected: Any) -> float:
    """Relative error."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def theirs(chosen: Any, regional: bool) -> dict[str, Any]:
    """diffusers' ControlNet and UNet, a call of each a step."""
    import json

    import torch
    from diffusers import ControlNetModel, UNet2DConditionModel
    from torch._dynamo.utils import counters

    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.float16) if gpu else ("cpu", torch.float32)
    folder = ROOT / ("ipa_cli/demo" if chosen.tiny else "ipa_cli/presets/sdxl") / "unet/config.json"
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(**json.loads(folder.read_text()))
        control = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    unet, control = (
        one.to(device, dtype).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        for one in (unet, control)
    )
    side, cross = (8 if chosen.tiny else 128), unet.config.cross_attention_dim
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    sample = torch.randn(2, 4, side, side, device=device, dtype=dtype)
    states = torch.randn(2, 77, cross, device=device, dtype=dtype)
    picture = torch.rand(2, 3, 8 * side, 8 * side, device=device, dtype=dtype)
    added = {
        "text_embeds": torch.randn(2, pooled, device=device, dtype=dtype),
        "time_ids": torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]] * 2, device=device, dtype=dtype),
    }
    timestep = torch.tensor(500, device=device)

    def step(scale: float | None) -> None:
        extra: dict[str, Any] = {}
        if scale is not None:
            down, mid = control(sample, timestep, states, picture, scale, added_cond_kwargs=added, return_dict=False)
            extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        unet(sample, timestep, states, added_cond_kwargs=added, **extra)

    def wait() -> float:
        if gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    torch._dynamo.config.cache_size_limit = torch._dynamo.config.accumulated_cache_size_limit = 1000
    if regional:
        unet.compile_repeated_blocks()
        # ControlNetModel names no repeated blocks in every version: these are the UNet's.
        control._repeated_blocks = list(unet._repeated_blocks)
        control.compile_repeated_blocks()
    return {
        "rows": {
            name: _timed(lambda scale=scale: step(scale), chosen.steps, wait, counters)
            for name, scale in (("UNet alone", None), ("with a ControlNet", 1.0), ("scale 0.3", 0.3))
        }
    }


def _timed(step: Callable[[], None], steps: int, wait: Callable[[], float], counters: Any) -> dict[str, Any]:
    import torch

    before, began = counters["stats"]["unique_graphs"], wait()
    with torch.no_grad():
        step()
        first = wait()
        for _ in range(steps):
            step()
        ended = wait()
    made = counters["stats"]["unique_graphs"] - before
    return {"it_per_s": steps / (ended - first), "first_s": first - began, "compiled": made}


def main() -> None:
    """Measure, print a short table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--theirs", default="both", choices=("both", "regional", "eager", "none"))
    parser.add_argument("--backends", default="eager,inductor")
    parser.add_argument("--tiny", action="store_true", help="the miniature's shape, to try this script")
    chosen = parser.parse_args()
    record = Record("controlnet.json")
    with tempfile.TemporaryDirectory(prefix="ipa-control-") as folder:
        for backend in chosen.backends.split(","):
            record.add(backend, ours(chosen, Path(folder), backend))
            gc.collect()
    for kind in ("eager", "regional"):
        if chosen.theirs in (kind, "both"):
            record.add(f"diffusers {kind}", theirs(chosen, kind == "regional"))
            gc.collect()
    for name, figures in record.figures.items():
        print(f"{name:22} {'it/s':>7} {'captured':>9} {'compiled':>9}  {figures.get('error', '')}")
        for row, facts in figures["rows"].items():
            made = f"{facts.get('captured', ''):>9} {facts.get('compiled', ''):>9}"
            print(f"  {row:20.20} {facts['it_per_s']:7.2f} {made}")


if __name__ == "__main__":
    main()
