"""Speed, parity, memory and reload time of the backends on one GPU, with a full-size SDXL of random weights.

    python benchmarks/graph.py [--parts eager,graph,fast,apart,plain,fp8,linear,dynamic]
                               [--size 1024] [--pictures 1] [--options JSON] [--profile] [--exact] [--no-reload]

With guidance (UNet batch 2 for each picture), 4 image tokens, fp16. Every figure stands beside the relative error
against eager in the same run, at two scales; --exact adds eager's own and each part's against fp32. --profile tells
where the GPU's time goes. A JSON file goes to $OUT when that is set.
"""

import argparse
import copy
import cProfile
import gc
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import save
from ipa_cli.backends import eager
from ipa_cli.backends.inductor import backend, compilation, loading
from ipa_cli.unet.attention import install, layers, project
from ipa_cli.unet.inputs import AddedConditions, UNetInputs

SDXL: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 2,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
TINY: dict[str, Any] = {
    **SDXL,
    "attention_head_dim": [2, 4, 4],
    "block_out_channels": [32, 64, 64],
    "cross_attention_dim": 64,
    "projection_class_embeddings_input_dim": 256 * 6 + 64,
    "transformer_layers_per_block": [1, 1, 2],
}
IMAGE_DIM = 1280
SCALES = (1.0, 0.3)
PARTS: dict[str, dict[str, Any]] = {
    "eager": {"cuda_graph": False},
    "graph": {},
    "fast": {"preset": "fast"},
    "apart": {"preset": "fast", "kernels": ["cross_attention", "gate_quantize"]},
    "plain": {"preset": "fast", "kernels": [], "fuse_upsample": False},
    "fp8": {"preset": "fast", "precision": "fp8"},
    "linear": {
        "preset": "fast",
        "precision": "fp8",
        "fp8_layers": ["attn1.to_qkv", "ff.net.0.proj", "ff.net.2"],
    },
    "dynamic": {"preset": "fast", "dynamic": [256, 1536]},
}


def build(config: dict[str, Any], device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The UNet and its adapter with the same random weights in every process."""
    from ipa_cli.unet.model import UNet

    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            unet = UNet(config).eval().requires_grad_(False)
            cross = unet.config.cross_attention_dim
            state: dict[str, dict[str, Any]] = {
                "image_proj": {
                    "proj.weight": torch.randn(4 * cross, IMAGE_DIM) * IMAGE_DIM**-0.5,
                    "proj.bias": torch.zeros(4 * cross),
                    "norm.weight": torch.ones(cross),
                    "norm.bias": torch.zeros(cross),
                },
                "ip_adapter": {
                    f"{2 * layer + 1}.to_{kind}_ip.weight": torch.randn(
                        unet.get_submodule(name).to_k.out_features, cross
                    )
                    * cross**-0.5
                    for layer, name in enumerate(layers(unet))
                    for kind in "kv"
                },
            }
    finally:
        torch.set_default_dtype(default)
    return unet, install(unet, [state])


def inputs(unet: Any, adapters: Any, size: int, scale: float, pictures: int = 1) -> UNetInputs:
    """One step of pictures of `size` x `size` pixels with guidance."""
    batch = 2 * pictures
    device, dtype, cross = unet.device, unet.dtype, unet.config.cross_attention_dim
    generator = torch.Generator("cpu").manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    scales = torch.full((1, len(layers(unet))), scale, device=device)
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    time_ids = torch.tensor([[size, size, 0, 0, size, size]] * batch, device=device, dtype=dtype)
    return UNetInputs(
        sample=normal(batch, 4, size // 8, size // 8),
        timestep=torch.tensor(500.0, device=device),
        added=AddedConditions(normal(batch, pooled), time_ids),
        context=project(unet, adapters, normal(batch, 77, cross), [normal(batch, 1, IMAGE_DIM)], scales),
    )


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """Median time of `repeats` calls after a warm-up, each waited for."""
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        synchronize()
        began = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times)[repeats // 2] * 1e3


def pipelined(call: Callable[[], Any], repeats: int) -> float:
    """Mean time of calls sent one after the other, as a denoising loop does."""
    synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize()
    return (time.perf_counter() - began) / repeats * 1e3


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative error of `a` against `b`."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


KINDS = {
    "attention": ("sdpa", "flash", "fmha", "attention_kernel"),
    "convolution": ("fprop", "conv", "implicit"),
    "linear": ("gemm", "nvjet", "cutlass", "splitk", "geglu"),
    "Triton": ("triton_", "silu_im2col"),
    "memset": ("memset",),
    "copy": ("memcpy", "copy"),
}


Row = tuple[str, int, float, float]  # of a profile: name, how often, ms of all, ms of the longest


def profiled(call: Callable[[], Any]) -> tuple[list[Row], list[Row]]:
    """Where one call's time goes on the GPU: by kind, and by kernel."""
    from torch.profiler import ProfilerActivity, profile

    call()
    synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        synchronize()
    kinds: dict[str, list[float]] = {}
    names: dict[str, list[float]] = {}
    for event in seen.events():
        low = event.name.lower()
        kind = next((kind for kind, words in KINDS.items() if any(word in low for word in words)), "other")
        kinds.setdefault(kind, []).append(event.device_time)
        names.setdefault(event.name, []).append(event.device_time)

    def rows(of: dict[str, list[float]]) -> list[Row]:
        found = ((name, len(all_), sum(all_) / 1e3, max(all_) / 1e3) for name, all_ in of.items())
        return sorted(found, key=lambda row: -row[2])

    return rows(kinds), rows(names)


def reload(folder: str, options: dict[str, Any], size: int, tiny: bool) -> dict[str, float]:
    """In this fresh process: seconds for the weights, to open the graph, and for the first step."""
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    began = time.perf_counter()
    unet, adapters = build(TINY if tiny else SDXL, device, dtype)
    given = inputs(unet, adapters, size, 1.0)
    unet.to(memory_format=torch.channels_last)
    synchronize()
    weights = time.perf_counter()
    denoise = backend.load(unet, Path(folder), options)
    opened = time.perf_counter()
    denoise(given)
    synchronize()
    return {"weights_s": weights - began, "open_s": opened - weights, "first_s": time.perf_counter() - opened}


def fresh_process(folder: Path, options: dict[str, Any], size: int, tiny: bool) -> dict[str, float]:
    """`reload` in a new process, with an empty compiler cache and no working compiler."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "CXX": "/bin/false", "CC": "/bin/false"}
        command = [sys.executable, __file__, "--reload", str(folder), "--options", json.dumps(options)]
        command += ["--size", str(size), *(["--tiny"] if tiny else [])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        leftovers = [path for path in Path(cache).rglob("*") if path.is_file()]
    if done.returncode:
        raise SystemExit(f"reloading failed ({done.returncode}):\n{done.stderr}")
    return {**json.loads(done.stdout.splitlines()[-1]), "compiled_files": len(leftovers)}


def compiled(options: dict[str, Any], scene: "Scene") -> tuple[Path, float]:
    """The folder of a graph and how long it took; options that count only when it is loaded take the one before."""
    key = json.dumps({**options, "cuda_graph": None}, sort_keys=True)
    if key in scene.graphs:
        return scene.graphs[key], 0.0
    folder = scene.graphs[key] = Path(tempfile.mkdtemp(dir=scene.work.name))
    began = time.perf_counter()

    def report(what: str) -> None:
        print(f"  [{time.perf_counter() - began:6.1f}] {what}", flush=True)

    backend.compile(scene.unet, scene.inputs[SCALES[0]], folder, options, report)
    return folder, time.perf_counter() - began


def measure(part: str, given: dict[str, Any], scene: "Scene") -> dict[str, Any]:
    """All figures of one part."""
    figures: dict[str, Any] = {}
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if part in ("eager", "graph"):
        denoise = eager.load(scene.unet, None, eager.options(given))
    else:
        options = backend.options(given)
        folder, figures["compile_s"] = compiled(options, scene)
        figures["bytes"] = sum(path.stat().st_size for path in folder.iterdir())
        if scene.reload:
            figures["reload"] = fresh_process(folder, options, scene.size, scene.tiny)
        denoise = backend.load(scene.unet, folder, options)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
    one = scene.inputs[SCALES[0]]
    began = time.perf_counter()
    denoise(one)
    synchronize()
    figures["first_s"] = time.perf_counter() - began
    figures["ms"] = milliseconds(lambda: denoise(one), scene.repeats)
    figures["pipelined_ms"] = pipelined(lambda: denoise(one), scene.repeats)
    figures["it_s"] = 1e3 / figures["pipelined_ms"]
    outputs = {scale: denoise(scene.inputs[scale]) for scale in SCALES}
    figures["error"] = [relative(outputs[scale], scene.expected[scale]) for scale in SCALES]
    if scene.exact is not None:
        figures["exact"] = relative(outputs[SCALES[0]], scene.exact)
    if scene.profile:
        figures["kinds"], longest = profiled(lambda: denoise(one))
        for name, count, ms, most in [*figures["kinds"], ("", 0, 0.0, 0.0), *longest[:50]]:
            print(f"  {ms:7.2f} ms {count:5} x, longest {most:6.3f}: {name[:100]}")
    figures["scale_effect"] = relative(outputs[SCALES[1]], outputs[SCALES[0]])
    if torch.cuda.is_available():
        figures["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return figures


def profile_a_worker(scene: "Scene", given: dict[str, Any]) -> None:
    """Where the time goes that a process takes to compile one residual block."""
    from ipa_cli.backends.inductor import partition, regions, worker

    options = backend.options(given)
    scene.unet.to(memory_format=torch.channels_last)
    one = scene.inputs[SCALES[0]]
    found = partition.partition(scene.unet, loading.kernel_options(options, scene.unet.device), one.context)
    region = next(
        region for region in regions.find(scene.unet, found, one, False) if region.name.startswith("resnetblock")
    )
    exported = regions.export(found[region.parts[0]], region, None)
    exported._example_inputs = None
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder, "program.pt2"))
        torch.export.save(exported, program)
        layouts: list[Any] = [region.weight_layouts, region.inputs]
        job = (
            program,
            str(Path(folder, "package.pt2")),
            layouts,
            str(scene.unet.device),
            compilation._settings(options, 1),
        )
        watch = cProfile.Profile()
        print(watch.runcall(worker.compile_region, *job))
    pstats.Stats(watch).sort_stats("cumulative").print_stats(70)


class Scene:
    """The UNet, its inputs at both scales, and eager's answers."""

    def __init__(self, chosen: argparse.Namespace):
        device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
        self.size, self.tiny, self.repeats = chosen.size, chosen.tiny, 5 if chosen.tiny else 30
        self.work, self.graphs = tempfile.TemporaryDirectory(), dict[str, Path]()
        self.profile, self.reload = chosen.profile, not chosen.no_reload
        self.unet, adapters = build(TINY if chosen.tiny else SDXL, device, dtype)
        self.inputs = {scale: inputs(self.unet, adapters, chosen.size, scale, chosen.pictures) for scale in SCALES}
        call = eager.load(self.unet, None, eager.options({"cuda_graph": False}))
        self.expected = {scale: call(given) for scale, given in self.inputs.items()}
        self.exact = in_fp32(self.unet, self.inputs[SCALES[0]]) if chosen.exact else None


def in_fp32(unet: Any, given: UNetInputs) -> torch.Tensor:
    """What eager computes in fp32 from the same weights and inputs."""
    exact = copy.deepcopy(unet).float()
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.no_grad():
            return exact(pytree.tree_map(torch.Tensor.float, given))
    finally:
        torch.backends.cudnn.allow_tf32 = tf32


def main() -> None:
    """Measure the chosen parts, print a short table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="eager,graph,fast,dynamic,fp8", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--options", type=json.loads, default={}, help="inductor options for every compiled part")
    parser.add_argument("--pictures", type=int, default=1, help="how many at once")
    parser.add_argument("--profile", action="store_true", help="tell where the GPU's time goes")
    parser.add_argument("--exact", action="store_true", help="errors against fp32 too")
    parser.add_argument("--worker", action="store_true", help="only tell where a compiling process spends its time")
    parser.add_argument("--no-reload", action="store_true", help="do not open the graph in a process of its own")
    parser.add_argument("--tiny", action="store_true", help="a tiny UNet, to try this script")
    parser.add_argument("--reload", metavar="FOLDER", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.reload:
        print(json.dumps(reload(chosen.reload, chosen.options, chosen.size, chosen.tiny)))
        return
    began = time.perf_counter()
    scene = Scene(chosen)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    results: dict[str, Any] = {"torch": torch.__version__, "device": gpu, "size": chosen.size}
    print(f"built in {time.perf_counter() - began:.1f} s: torch {torch.__version__}, {gpu}", flush=True)
    if chosen.worker:
        profile_a_worker(scene, chosen.options)
        return
    if scene.exact is not None:
        results["eager to fp32"] = relative(scene.expected[SCALES[0]], scene.exact)
        print(f"eager's own error against fp32: {results['eager to fp32']:.1e}", flush=True)
    for part in chosen.parts.split(","):
        has_options = part not in ("eager", "graph")
        try:
            results[part] = measure(part, {**PARTS[part], **(chosen.options if has_options else {})}, scene)
        except Exception:  # the other parts are still worth their figures
            print(f"{part} failed:\n{traceback.format_exc()[-3000:]}", flush=True)
            continue
        print(f"[{time.perf_counter() - began:6.1f}] {part} {json.dumps(results[part])}", flush=True)
        save("graph.json", json.dumps(results, indent=1))
    print(
        f"{'':8} {'ms':>7} {'it/s':>6} {'error':>8} {'to fp32':>8} {'compile':>8} {'open':>6} {'first':>6} {'GiB':>6}"
    )
    for part in filter(results.__contains__, chosen.parts.split(",")):
        row = results[part]
        again = row.get("reload", {})
        print(
            f"{part:8} {row['ms']:7.2f} {row['it_s']:6.2f} {max(row['error']):8.1e} {row.get('exact', 0):8.1e}"
            f" {row.get('compile_s', 0):8.1f}"
            f" {again.get('open_s', 0):6.2f} {again.get('first_s', row['first_s']):6.2f}"
            f" {row.get('peak_gib', 0):6.2f}"
        )


if __name__ == "__main__":
    main()
