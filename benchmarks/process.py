"""Whole processes of `ipa` on one GPU, with a full-size SDXL and IP-Adapter of seeded random weights on local disk.

    python benchmarks/process.py [--parts compile,30,bare,eager,100,offload,four,batch] [--model FOLDER] [--tiny]

Writes a model folder (about 11 GB; --model names where, and keeps it), then times `ipa compile` and `ipa generate`,
each in a process of its own: wall time from outside, and its parts as --json tells them. Needs no network. Prints a
short table last; a JSON file goes to $OUT when that is set.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose files have names that libraries look for

from benchmarks.timed_process import Record, run_ipa  # noqa: E402

DEMO = ROOT / "ipa_cli" / "demo"
PICTURE = ("generate", "--prompt", "a red fox in the snow", "--seed", "1", "--image", str(DEMO / "reference.png"))
# What each part types after `ipa`; `bare` runs where nothing can be compiled, and nothing was.
PARTS: dict[str, tuple[str, ...]] = {
    "compile": ("compile",),
    "30": (*PICTURE, "--steps", "30"),
    "bare": (*PICTURE, "--steps", "30"),
    "eager": (*PICTURE, "--steps", "30", "--backend", "eager"),
    "eager100": (*PICTURE, "--steps", "100", "--backend", "eager"),
    "eager4": (*PICTURE, "--steps", "30", "--backend", "eager", "--num-images", "4", "--batch-size", "4"),
    "100": (*PICTURE, "--steps", "100"),
    "four": (*PICTURE, "--steps", "30", "--num-images", "4"),
    "compile4": ("compile", "--batch-size", "4"),
    "batch": (*PICTURE, "--steps", "30", "--num-images", "4", "--batch-size", "4"),
    "compile2": ("compile", "--gpus", "2"),
    "two": (*PICTURE, "--steps", "30", "--gpus", "2"),
    "offload": (*PICTURE, "--steps", "10", "--offload", "model"),
}
# What every process spends before it can load anything, seconds by import.
IMPORTS = """
import json, time
spent, began = {}, time.perf_counter()
def lap(name):
    global began
    spent[name], began = time.perf_counter() - began, time.perf_counter()
import torch; lap("torch")
torch.empty(1, device="cuda" if torch.cuda.is_available() else "cpu"); lap("device")
from diffusers import AutoencoderKL, UNet2DConditionModel, EulerDiscreteScheduler; lap("diffusers")
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection; lap("transformers")
print(json.dumps(spent))
"""
DEFAULT = "compile,30,bare,eager,100,four,compile4,batch,offload"


def write_model(folder: Path, tiny: bool) -> None:
    """A diffusers folder with its own adapter: the package's dummy SDXL, or the miniature, in fp16."""
    import torch
    from safetensors.torch import save_file

    from ipa_cli.config import Settings
    from ipa_cli.models import dummy
    from ipa_cli.models.plan import make_plan

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan = make_plan(Settings(model="demo" if tiny else "sdxl", load_format="dummy", image=("any.png",)))
    parts, (adapter,), (encoder,) = dummy.parts(plan, device, device, torch.float16)
    for name in ("unet", "vae", *plan.architecture.text_encoders):
        stem = "diffusion_pytorch_model" if name in ("unet", "vae") else "model"
        write_part(folder / name, stem, parts[name].half(), plan.configs[name])
    for name in plan.architecture.tokenizers:
        shutil.copytree(DEMO / name, folder / name)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(plan.configs["scheduler"]))
    assert plan.adapter is not None
    write_part(folder / "ip_adapter/image_encoder", "model", encoder, plan.adapter.encoder.config)
    flat = {f"{kind}.{name}": tensor.contiguous() for kind, group in adapter.items() for name, tensor in group.items()}
    save_file(flat, folder / "ip_adapter/ip-adapter.safetensors")
    assert plan.location.folder is not None
    shutil.copy(plan.location.folder / "model_index.json", folder)


def write_part(folder: Path, stem: str, module: Any, config: Any) -> None:
    """One part of a diffusers folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in module.state_dict().items()}, folder / f"{stem}.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(dict(config)))


def run(part: str, model: Path, work: Path, extra: list[str], limit: float) -> dict[str, Any]:
    """One process of a part: see `run_ipa`."""
    typed = [*PARTS[part], "--model", str(model), "--cache-dir", str(work / "cache"), "--json", *extra]
    if typed[0] == "generate":
        typed += ["--output", str(work / f"{part}.png"), "--force"]
    inherited = os.environ.get("PYTHONPATH")
    packages = os.pathsep.join(filter(None, (str(ROOT), inherited)))
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"), "PYTHONPATH": packages}
    if part == "bare":
        environment |= {"TORCHINDUCTOR_CACHE_DIR": str(work / "empty"), "CXX": "/bin/false", "CC": "/bin/false"}
    return run_ipa([sys.executable, "-m", "ipa_cli", *typed], environment, limit)


def row(part: str, figures: dict[str, Any]) -> str:
    """A line of the table."""
    if "failure" in figures:
        return f"{part:9} {figures.get('wall_s', 0):6.1f}  {figures['failure']}"
    if "graphs" in figures:
        (graph,) = figures["graphs"]
        spent = f"compiled in {graph['compile_s']:.1f} s" if graph["compile_s"] else "was there"
        return f"{part:9} {figures['wall_s']:6.1f} {figures['load_s']:6.2f}  {spent}, opened in {graph['open_s']:.2f} s"
    times, pictures = figures["timings"], len(figures["images"])
    steps = times.get("steps_s", pictures * figures["steps"] / times["it_per_s"])
    columns = [
        f"{figures['wall_s'] - times['e2e_s']:6.2f}",  # Python and the command line, before and after
        *(f"{times.get(name, float('nan')):6.2f}" for name in ("load_s", "encode_s", "graph_open_s", "first_step_s")),
        f"{steps:6.2f}",
        f"{times['inference_s'] - steps:6.2f}",
        *(f"{times.get(name, float('nan')):6.2f}" for name in ("decode_s", "save_s")),
        f"{times['it_per_s']:6.2f}",
        f"{pictures / times['inference_s']:6.3f}",
        f"{figures['memory']['peak_gib']:6.2f}",
        f"{figures['memory'].get('reserved_gib') or float('nan'):6.2f}",
    ]
    return f"{part:9} {figures['wall_s']:6.1f} " + " ".join(columns) + f"  {figures['backend']}"


HEADER = (
    f"{'':9} {'wall':>6} {'start':>6} {'load':>6} {'encode':>6} {'open':>6} {'first':>6} {'steps':>6} {'+rest':>6}"
    f" {'decode':>6} {'save':>6} {'it/s':>6} {'pic/s':>6} {'GiB':>6} {'resvd':>6}"
)


def main() -> None:
    """Measure the chosen parts, print a short table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=DEFAULT, help=f"of {', '.join(PARTS)}")
    parser.add_argument("--model", type=Path, help="folder to write the model into, or one that has it")
    parser.add_argument("--options", help="compile options for every part that takes them")
    parser.add_argument("--limit", type=float, default=180, help="seconds for one process")
    parser.add_argument("--within", type=float, default=1e9, help="begin no further part after so many seconds")
    parser.add_argument("--tiny", action="store_true", help="the miniature's shape, to try this script")
    chosen = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program finds its bytecode
    record = Record("process.json")

    with tempfile.TemporaryDirectory(prefix="ipa-process-") as folder:
        work = Path(folder)
        model = chosen.model or work / "model"
        if not (model / "model_index.json").is_file():
            # In a process of its own, so that its memory is free again.
            subprocess.run([sys.executable, __file__, "--write", str(model), *(["--tiny"] * chosen.tiny)], check=True)
        size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
        record.add("model", {"bytes": size, "write_s": record.seconds()})
        spent = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout
        record.add("imports", json.loads(spent))
        for part in chosen.parts.split(","):
            if record.seconds() > chosen.within:
                record.add(part, {"failure": "no time left"})
                continue
            extra = ["--compile-options", chosen.options] if chosen.options and "eager" not in PARTS[part] else []
            if chosen.tiny and part != "compile" and "eager" not in PARTS[part]:
                extra += ["--width", "64", "--height", "64"]
            record.add(part, run(part, model, work, extra, chosen.limit))
    print("imports: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in record.figures["imports"].items()))
    print(HEADER)
    for part in chosen.parts.split(","):
        print(row(part, record.figures[part]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write_model(Path(sys.argv[2]), "--tiny" in sys.argv)
    else:
        main()
