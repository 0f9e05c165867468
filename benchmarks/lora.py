"""LoRAs on one GPU with a full-size SDXL: seconds of a swap, steps a second, graphs made; diffusers beside.

    python benchmarks/lora.py [--rank 40] [--steps 20] [--precision fp8] [--theirs whole|regional|eager|none] [--tiny]

Seeded random weights and two LoRAs of random numbers, in diffusers' format, for all products of the UNet's
transformers. The sequence is none, A at 0.5, A, B, A and B, none again, A and B again, none. `read` is the file from
the page cache, checked, with its digests; `merge` is the merge in the UNet until the GPU is done. Then the same in
diffusers with PEFT and torch.compile (the UNet alone): loading and `set_adapters`, the first call after it, in which it
compiles, and steps a second. Needs no network. Prints a short table last; a JSON file goes to $OUT when that is set.
"""

import argparse
import gc
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose files have names that libraries look for

from benchmarks.timed_process import Record  # noqa: E402

SEQUENCE: tuple[tuple[str, dict[str, float]], ...] = (
    ("none", {}),
    ("A 0.5", {"a": 0.5}),
    ("A", {"a": 1.0}),
    ("B", {"b": 1.0}),
    ("A + B", {"a": 1.0, "b": 1.0}),
    ("none again", {}),
    ("A + B again", {"a": 1.0, "b": 1.0}),
    ("none at last", {}),
)
ENDS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")


def write_loras(unet: Any, folder: Path, rank: int) -> dict[str, Path]:
    """Two LoRAs with random numbers in float16, by diffusers' names."""
    import torch
    from safetensors.torch import save_file

    files = {}
    for seed, name in enumerate(("a", "b")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for module, layer in unet.named_modules():
            if module.endswith(ENDS) and hasattr(layer, "weight"):
                out, given = layer.weight.shape[:2]
                down = torch.randn(rank, given, generator=generator) * given**-0.5
                up = torch.randn(out, rank, generator=generator) * 0.1 * rank**-0.5
                tensors[f"unet.{module}.lora_A.weight"], tensors[f"unet.{module}.lora_B.weight"] = (
                    down.half(),
                    up.half(),
                )
        files[name] = folder / f"{name}.safetensors"
        save_file(tensors, files[name])
    return files


def ours(chosen: Any, work: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """One engine through the sequence."""
    import numpy as np
    import torch

    from ipa_cli.config import LoraConfig, Settings
    from ipa_cli.engine.engine import Engine
    from ipa_cli.models.lora import file as lora_file
    from ipa_cli.models.lora.lora import load
    from ipa_cli.models.plan import make_plan
    from ipa_cli.pipeline.references import load_references
    from ipa_cli.pipeline.task import make_request
    from ipa_cli.result import NullReporter

    gpu, quiet = torch.cuda.is_available(), NullReporter()
    settings = Settings(
        model="demo" if chosen.tiny else "sdxl",
        load_format="dummy",
        image=(str(ROOT / "ipa_cli/demo/reference.png"),),
        prompt="a red fox in the snow",
        seed=1,
        steps=chosen.steps,
        backend=chosen.backend or ("inductor" if gpu else "eager"),
        precision=chosen.precision,
        cache_dir=work / "cache",
        **({"width": 64, "height": 64} if chosen.tiny else {}),
    )
    plan = make_plan(settings)
    engine = Engine.open(settings, plan, quiet)
    files = write_loras(engine.model.unet, work, chosen.rank)
    base = make_request(settings, plan, load_references(settings, quiet))
    ready = engine.prepare(base)
    engine.draw(base)
    figures: dict[str, Any] = {"bytes": files["a"].stat().st_size, "compile_s": ready.compile_s, "rows": {}}
    pictures = {}
    for name, weights in SEQUENCE:
        lora_file._read.cache_clear()  # as if it had not been asked for lately
        began = time.perf_counter()
        found = load([LoraConfig(str(files[one]), None, weight) for one, weight in weights.items()], plan, quiet)
        read = time.perf_counter()
        asked = replace(base, loras=found)
        engine._encodings._loras.merge_into_unet(found)
        if gpu:
            torch.cuda.synchronize()
        merged = time.perf_counter()
        drawing = engine.draw(asked)
        pictures[name] = np.asarray(drawing.images[0])
        made = getattr(ready.denoiser, "captures", 0)
        figures["rows"][name] = {
            "read_s": read - began,
            "merge_s": merged - read,
            "it_per_s": drawing.it_per_s,
            "graphs": made,
        }
    for one, other in (("none", "none again"), ("none", "none at last"), ("A + B", "A + B again")):
        figures["rows"][other]["same"] = bool((pictures[one] == pictures[other]).all())
    figures["differ"] = all((pictures["none"] != pictures[name]).any() for name in ("A 0.5", "A", "B", "A + B"))
    figures["memory"] = engine.memory()
    engine.close()
    return figures, files


def theirs(chosen: Any, files: dict[str, Path]) -> dict[str, Any]:
    """diffusers' UNet with PEFT through the sequence."""
    import json

    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file
    from torch._dynamo.utils import counters

    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.float16) if gpu else ("cpu", torch.float32)
    folder = ROOT / ("ipa_cli/demo" if chosen.tiny else "ipa_cli/presets/sdxl") / "unet/config.json"
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(**json.loads(folder.read_text()))
    unet = unet.to(device, dtype).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    side, cross = (8 if chosen.tiny else 128), unet.config.cross_attention_dim
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    given = {
        "sample": torch.randn(2, 4, side, side, device=device, dtype=dtype),
        "timestep": torch.tensor(500, device=device),
        "encoder_hidden_states": torch.randn(2, 77, cross, device=device, dtype=dtype),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(2, pooled, device=device, dtype=dtype),
            "time_ids": torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]] * 2, device=device, dtype=dtype),
        },
    }

    def wait() -> float:
        if gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    torch._dynamo.config.cache_size_limit = torch._dynamo.config.accumulated_cache_size_limit = 1000
    if chosen.theirs == "regional":
        unet.compile_repeated_blocks()
    elif chosen.theirs == "whole":
        unet.compile()
    loaded: set[str] = set()
    rows = {}
    for name, weights in SEQUENCE:
        began = wait()
        for one in sorted(weights.keys() - loaded):
            unet.load_lora_adapter(load_file(files[one]), prefix="unet", adapter_name=one)
            loaded.add(one)
        if weights:
            unet.enable_lora()
            unet.set_adapters(list(weights), list(weights.values()))
        elif loaded:
            unet.disable_lora()
        swapped, before = wait(), counters["stats"]["unique_graphs"]
        with torch.no_grad():
            unet(**given)
            first = wait()
            for _ in range(chosen.steps):
                unet(**given)
        steps = wait() - first
        compiled = counters["stats"]["unique_graphs"] - before
        rows[name] = {
            "swap_s": swapped - began,
            "first_s": first - swapped,
            "it_per_s": chosen.steps / steps,
            "graphs": compiled,
        }
    return {"rows": rows}


def main() -> None:
    """Measure, print a short table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=40)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--backend")
    parser.add_argument("--precision", default="half")
    parser.add_argument("--theirs", default="whole", choices=("whole", "regional", "eager", "none"))
    parser.add_argument("--tiny", action="store_true", help="the miniature's shape, to try this script")
    chosen = parser.parse_args()
    record = Record("lora.json")
    with tempfile.TemporaryDirectory(prefix="ipa-lora-") as folder:
        figures, files = ours(chosen, Path(folder))
        record.add("ours", figures)
        gc.collect()
        if chosen.theirs != "none":
            record.add("theirs", theirs(chosen, files))
    print(
        f"a LoRA of {figures['bytes'] / 1e6:.0f} MB; compiling once {figures['compile_s']:.0f} s; {figures['memory']}"
    )
    print(f"pictures differ: {figures['differ']}")
    print(f"{'ipa':14} {'read s':>7} {'merge s':>8} {'it/s':>7} {'graphs':>7}  same")
    for name, row in figures["rows"].items():
        numbers = f"{row['read_s']:7.3f} {row['merge_s']:8.3f} {row['it_per_s']:7.2f} {row['graphs']:7}"
        print(f"{name:14} {numbers}  {row.get('same', '')}")
    if chosen.theirs != "none":
        print(f"{'diffusers':14} {'swap s':>7} {'first s':>8} {'it/s':>7} {'new':>7}  torch.compile: {chosen.theirs}")
        for name, row in record.figures["theirs"]["rows"].items():
            print(f"{name:14} {row['swap_s']:7.3f} {row['first_s']:8.3f} {row['it_per_s']:7.2f} {row['graphs']:7}")


if __name__ == "__main__":
    main()
