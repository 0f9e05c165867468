"""One file with a full-size SDXL, as models are shared: written, loaded, compared with its folder, and drawn with.

    python benchmarks/single_file.py [--folder FOLDER] [--parts compile,file,folder,eager,sweep] [--steps 30] [--tiny]

Writes a diffusers folder of seeded random weights in fp16, the same as one file in SGM's names (6.9 GB), and an adapter
with its image encoder as h94/IP-Adapter has them (18 GB in all; --folder names where, and keeps them). Every tensor
that is loaded from the file must be that of the folder, and so must the picture. Each part is a process of its own.
Needs no network. Prints a short table last; a JSON file goes to $OUT when that is set.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose files have names that libraries look for

from benchmarks.timed_process import Record, run_ipa  # noqa: E402

DEMO = ROOT / "ipa_cli" / "demo"
FILE = "model.safetensors"
ADAPTER = ("--ip-adapter-subfolder", "sdxl_models", "--ip-adapter-weight-name", "ip-adapter_sdxl.safetensors")
INPUTS = ("--prompt", "a red fox in the snow", "--seed", "1", "--image", str(DEMO / "reference.png"))
# What each part types after `ipa`, and whether of the file or of the folder.
PARTS: dict[str, tuple[str, ...]] = {
    "compile": ("compile", FILE),
    "file": ("generate", FILE, *INPUTS),
    "folder": ("generate", "folder", *INPUTS),
    "eager": ("generate", FILE, *INPUTS, "--backend", "eager"),
    "sweep": ("sweep-scale", FILE, *INPUTS, "--scales", "0,0.5,1"),
}


def write(folder: Path, tiny: bool) -> None:
    """The model as a folder and as a file, and the adapter beside them."""
    from safetensors.torch import save_file

    from benchmarks.process import write_model
    from ipa_cli.models.architectures import SDXL
    from ipa_cli.models.architectures.base import PRESETS
    from tests import checkpoints

    model = folder / "folder"
    write_model(model, tiny)
    for part, padding in SDXL.tokenizers.items():  # the words of real models, so that both draw the same
        shutil.copytree(PRESETS / "tokenizer", model / part, dirs_exist_ok=True)
        (model / part / "tokenizer_config.json").write_text(json.dumps({"pad_token": padding}))
    of_adapter = folder / "adapter" / "sdxl_models"
    of_adapter.parent.mkdir(exist_ok=True)
    (model / "ip_adapter").rename(of_adapter)
    (of_adapter / "ip-adapter.safetensors").rename(of_adapter / ADAPTER[-1])
    save_file(checkpoints.tensors(model, "sdxl"), folder / FILE)


def check(folder: Path) -> None:
    """Load the file, then the folder, and print seconds, peak GiB of the GPU, and how many tensors differ."""
    import torch

    from ipa_cli.config import Settings
    from ipa_cli.models import loader
    from ipa_cli.models.plan import make_plan
    from ipa_cli.result import NullReporter

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    loaded, figures = [], {}
    for name in (FILE, "folder"):
        plan = make_plan(Settings(model=str(folder / name), ip_adapter="none", prompt=""))
        began = time.perf_counter()
        model = loader.load(plan, device, device, dtype, NullReporter(), shows_bars=False)
        loaded.append([module.state_dict() for module in (model.unet, model.vae, *model.text_encoders)])
        if device.type == "cuda":
            torch.cuda.synchronize()
            figures.setdefault("peak_gib", torch.cuda.max_memory_allocated() / 2**30)
        figures[f"{name} load_s"] = time.perf_counter() - began  # the first with imports and CUDA's beginning
    pairs = [(ours, theirs) for ours, theirs in zip(*loaded, strict=True)]
    assert all(ours.keys() == theirs.keys() for ours, theirs in pairs)
    figures["tensors"] = sum(map(len, loaded[0]))
    figures["different"] = sum(not torch.equal(ours[key], theirs[key]) for ours, theirs in pairs for key in ours)
    print(json.dumps(figures))


def as_tiny(folder: Path) -> None:
    """Let this process take the miniature's folder for the configurations of SDXL."""
    from ipa_cli.models import single_file, vocabulary
    from ipa_cli.models.architectures import SDXL

    presets = folder / "presets"
    if not presets.is_dir():
        shutil.copytree(DEMO, presets / "sdxl", ignore=shutil.ignore_patterns("*.safetensors", "ip_adapter"))
        shutil.copytree(DEMO / "tokenizer", presets / "tokenizer")
    single_file.PRESETS = vocabulary.PRESETS = presets
    type(SDXL).tokenizers = dict.fromkeys(SDXL.tokenizers, "<|endoftext|>")  # type: ignore[misc]


def run(part: str, folder: Path, work: Path, extra: list[str], inside: list[str], limit: float) -> dict[str, Any]:
    """One process of a part: see `run_ipa`."""
    command, model, *typed = PARTS[part]
    typed = [command, *typed, "--model", str(folder / model), "--ip-adapter", str(folder / "adapter"), *ADAPTER]
    typed += ["--cache-dir", str(work / "cache"), "--json", *extra]
    if command != "compile":
        typed += ["--output", str(work / (part if command == "sweep-scale" else f"{part}.png"))]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor")}
    return run_ipa([*inside, *typed], environment, limit)


HEADER = f"{'':8} {'wall s':>7} {'load s':>7} {'it/s':>7} {'GiB':>6}"


def row(part: str, figures: dict[str, Any]) -> str:
    """A line of the table."""
    if "failure" in figures:
        return f"{part:8} {figures.get('wall_s', 0):7.1f}  {figures['failure']}"
    times = figures.get("timings", {})
    load = times.get("load_s", figures.get("load_s", float("nan")))
    speed = 1 / times["step_s"] if "step_s" in times else times.get("it_per_s", float("nan"))
    peak = figures.get("memory", {}).get("peak_gib") or float("nan")
    summary = f"{figures['drawn']} pictures in {times['drawing_s']:.2f} s" if "drawn" in figures else ""
    if "graphs" in figures and "drawn" not in figures:
        summary = f"compiled in {figures['graphs'][0]['compile_s']:.1f} s"
    return (
        f"{part:8} {figures['wall_s']:7.1f} {load:7.2f} {speed:7.2f} {peak:6.2f}  {figures.get('backend', '')}{summary}"
    )


def same_picture(work: Path) -> str:
    """Whether the file and the folder drew the same."""
    from PIL import Image

    pictures = [work / f"{part}.png" for part in ("file", "folder")]
    if not all(path.is_file() for path in pictures):
        return "not compared"
    one, other = (Image.open(path).tobytes() for path in pictures)
    return "the same" if one == other else "DIFFERENT"


def main() -> None:
    """Write what is missing, compare, run the chosen parts, print a short table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--folder", type=Path, help="where to write everything, or where it is already")
    parser.add_argument("--steps", default="30")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one process")
    parser.add_argument("--tiny", action="store_true", help="the miniature's shape, to try this script")
    chosen = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program finds its bytecode
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    record = Record("single_file.json")

    with tempfile.TemporaryDirectory(prefix="ipa-single-file-") as temporary:
        work, tiny = Path(temporary), ["--tiny"] * chosen.tiny
        folder = (chosen.folder or work / "model").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE).is_file():
            # In a process of its own, so that its memory is free again.
            subprocess.run([sys.executable, __file__, "--write", str(folder), *tiny], check=True)
        record.add("model", {"bytes": (folder / FILE).stat().st_size, "write_s": record.seconds()})
        checked = subprocess.run(
            [sys.executable, __file__, "--check", str(folder), *tiny], stdout=subprocess.PIPE, text=True, check=True
        )
        record.add("check", json.loads(checked.stdout))
        inside = [sys.executable, __file__, "--ipa", str(folder)] if chosen.tiny else [sys.executable, "-m", "ipa_cli"]
        for part in chosen.parts.split(","):
            extra = [] if part == "compile" else ["--steps", chosen.steps]
            extra += ["--size", "64x64"] * (chosen.tiny and part in ("compile", "sweep"))
            extra += ["--width", "64", "--height", "64"] * (chosen.tiny and part not in ("compile", "sweep"))
            record.add(part, run(part, folder, work, extra, inside, chosen.limit))
        seen, picture = record.figures["check"], same_picture(work)
    print(f"{seen['tensors']} tensors, {seen['different']} different from the folder's; the picture: {picture}")
    print(f"load: the file {seen[f'{FILE} load_s']:.2f} s with imports, then the folder {seen['folder load_s']:.2f} s")
    print(f"peak GiB of the first: {seen.get('peak_gib', float('nan')):.2f}")
    print(HEADER)
    for part in chosen.parts.split(","):
        print(row(part, record.figures[part]))


if __name__ == "__main__":
    action, *rest = sys.argv[1:] or [""]
    if action in ("--write", "--check", "--ipa"):
        target = Path(rest[0])
        if action == "--ipa" or "--tiny" in rest:
            as_tiny(target)
        if action == "--write":
            write(target, "--tiny" in rest)
        elif action == "--check":
            check(target)
        else:
            from ipa_cli.app import run as ipa

            sys.exit(ipa(rest[1:]))
    else:
        main()
