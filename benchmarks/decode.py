"""Decoding a 1024x1024 picture with SDXL's VAE on one GPU: time, memory, and how far each way is from exact fp32.

    python benchmarks/decode.py [--only fp32,fp16,...] [--profile WAY] [--tiny]

Ways called "fused" are our Triton kernels, called one by one or compiled "ahead". `--profile` lists the kernels of one.
Seeded random weights, so that the output is scaled to the spread of a picture before its PSNR in 8 bits is taken;
the last column is the trained miniature's VAE, but for ways that would compile it. fp16 is `fp16.shrink`: the same
function within fp16's range. A JSON file goes to $OUT when that is set.
"""

import argparse
import copy
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# In place of this folder, whose files have names that libraries look for.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import ipa_cli  # noqa: E402
from benchmarks.results import save  # noqa: E402
from ipa_cli.backends.inductor import backend as inductor  # noqa: E402
from ipa_cli.backends.inductor import decoder as decoders  # noqa: E402
from ipa_cli.backends.inductor.decoder_blocks import FusedDecoder  # noqa: E402
from ipa_cli.models.vae import channels_last, fp16  # noqa: E402

PACKAGE = Path(ipa_cli.__file__).parent
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
SPREAD = 0.25  # standard deviation of a picture's values, 0 to 1
# name: dtype, layout, compiled, inside a CUDA graph; "nhwc" has torch's norms, "ours" is `channels_last.convert`,
# "ahead" the same as `ipa compile` compiles it without our kernels, "fused ahead" with them
WAYS: dict[str, tuple[torch.dtype, str, bool, bool]] = {
    "fp16 ours": (torch.float16, "ours", False, False),
    "fp16 ours graph": (torch.float16, "ours", False, True),
    "fp16 ahead": (torch.float16, "ahead", False, False),
    "fp16 ahead graph": (torch.float16, "ahead", False, True),
    "fused": (torch.float16, "fused", False, False),
    "fused graph": (torch.float16, "fused", False, True),
    "fused ahead": (torch.float16, "fused ahead", False, False),
    "fused ahead graph": (torch.float16, "fused ahead", False, True),
    "fp32 ours": (torch.float32, "ours", False, False),
    "fp32": (torch.float32, "nchw", False, False),
    "fp32 nhwc": (torch.float32, "nhwc", False, False),
    "bf16": (torch.bfloat16, "nchw", False, False),
    "bf16 nhwc": (torch.bfloat16, "nhwc", False, False),
    "fp16": (torch.float16, "nchw", False, False),
    "fp16 graph": (torch.float16, "nchw", False, True),
    "fp16 nhwc": (torch.float16, "nhwc", False, False),
    "fp16 compiled": (torch.float16, "nchw", True, False),
    "fp16 nhwc compiled": (torch.float16, "nhwc", True, False),
    "fp16 nhwc compiled graph": (torch.float16, "nhwc", True, True),
    "bf16 nhwc compiled": (torch.bfloat16, "nhwc", True, False),
}
CPU_WAYS = ("fp32", "bf16", "fp16", "fp16 ours")
OURS = ("ours", "ahead", "fused", "fused ahead")  # layouts that `channels_last` converts


def sdxl() -> Any:
    """SDXL's VAE with seeded random weights."""
    from ipa_cli.networks.autoencoder import AutoencoderKL

    config = json.loads((PACKAGE / "presets/sdxl/vae/config.json").read_text())
    torch.manual_seed(0)
    with torch.device(DEVICE):
        return AutoencoderKL(config).eval().requires_grad_(False)


def demo() -> Any:
    """The miniature's VAE, trained."""
    from safetensors.torch import load_file

    from ipa_cli.models.weights import usual_name
    from ipa_cli.networks.autoencoder import AutoencoderKL

    folder = PACKAGE / "demo" / "vae"
    vae = AutoencoderKL(json.loads((folder / "config.json").read_text()))
    tensors = load_file(next(folder.glob("*.safetensors")))
    vae.load_state_dict({usual_name(name): tensor.float() for name, tensor in tensors.items()})
    return vae.to(DEVICE).eval().requires_grad_(False)


def prepared(exact: Any, dtype: torch.dtype, layout: str) -> Any:
    """A copy of the decoder as a way wants it."""
    vae = copy.deepcopy(exact)
    if dtype == torch.float16:
        fp16.shrink(vae)
    torch.nn.Module.to(vae, dtype)
    if layout in OURS:
        channels_last.convert(vae)
    return vae.to(memory_format=torch.channels_last) if layout == "nhwc" else vae


def decoding(vae: Any, layout: str, latents: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """What decodes latents of this size; what is compiled ahead is opened as `ipa` opens it."""
    if layout.endswith("ahead"):
        with tempfile.TemporaryDirectory() as folder:
            decoders.compile(vae, latents, Path(folder), inductor.options(None), print, layout == "fused ahead")
            return decoders.load(vae, Path(folder))
    if layout != "fused":
        return vae.decode
    decoder, before = FusedDecoder(vae.decoder), vae.post_quant_conv
    return decoder if before is None else lambda given: decoder(before(given))


def in_graph(call: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    """`call` replayed as a CUDA graph."""
    given = example.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call(given)

    def replay(latents: torch.Tensor) -> torch.Tensor:
        given.copy_(latents)
        graph.replay()
        return output

    return replay


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if CUDA:
        torch.cuda.synchronize()


def seconds(call: Callable[[], Any]) -> float:
    """How long `call` takes until the device is done."""
    synchronize()
    began = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - began


def peak_gib() -> float:
    """Most memory allocated since the last reset."""
    return torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0.0


def exactly(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """fp32 without TF32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return vae.decode(latents)


def psnr(found: torch.Tensor, expected: torch.Tensor, middle: float, scale: float) -> float:
    """PSNR in dB of two pictures after their values were moved into 0 to 1 and rounded to 8 bits."""
    one, other = (
        ((values.float() - middle) * scale + 0.5).clamp(0, 1).mul(255).round() for values in (found, expected)
    )
    error = ((one - other) ** 2).mean().item()
    return 10 * torch.log10(torch.tensor(255**2 / error)).item() if error else float("inf")


def measure(way: tuple[torch.dtype, str, bool, bool], scene: "Scene", repeats: int) -> dict[str, float]:
    """All figures of one way."""
    dtype, layout, compiled, graph = way
    vae = prepared(scene.vae, dtype, layout)
    latents = scene.latents.to(dtype)
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() / 2**30 if CUDA else 0.0

    began = time.perf_counter()
    decode = decoding(vae, layout, latents)

    def plain(given: torch.Tensor) -> torch.Tensor:
        return decode(given)

    call: Callable[[torch.Tensor], torch.Tensor] = torch.compile(plain, dynamic=False) if compiled else plain
    if graph:
        call = in_graph(call, latents)
    seconds(lambda: call(latents))
    first = time.perf_counter() - began
    peak = peak_gib() - held
    times = sorted(seconds(lambda: call(latents)) for _ in range(repeats))
    found = call(latents)
    figures = {
        "first_s": first,
        "ms": times[repeats // 2] * 1e3,
        "peak_gib": peak,
        "error": ((found.double() - scene.expected.double()).norm() / scene.expected.double().norm()).item(),
        "psnr": psnr(found, scene.expected, scene.middle, SPREAD / scene.spread),
    }
    if not compiled and not layout.endswith("ahead"):  # in a CUDA graph or not, it is the same function
        small, given = prepared(scene.demo, dtype, layout), scene.demo_latents.to(dtype)
        decoded = decoding(small, layout, given)(given)
        figures["demo_psnr"] = psnr(decoded, scene.demo_expected, 0.0, 0.5)
    return figures


class Scene:
    """Both VAEs, latents, and what fp32 makes of them."""

    def __init__(self, side: int, tiny: bool):
        generator = torch.Generator("cpu").manual_seed(1)
        self.demo = demo()
        self.vae = self.demo if tiny else sdxl()
        self.latents = torch.randn(1, 4, side // 8, side // 8, generator=generator).to(DEVICE) / 0.13025
        self.demo_latents = torch.randn(1, 4, 32, 32, generator=generator).to(DEVICE)
        self.expected = exactly(self.vae, self.latents)
        self.demo_expected = exactly(self.demo, self.demo_latents)
        self.middle, self.spread = self.expected.mean().item(), self.expected.std().item()


def profile(name: str, scene: Scene) -> list[tuple[str, int, float]]:
    """The kernels of one call: name, how often, milliseconds; those that take longest first."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    dtype, layout, _, _ = WAYS[name]
    vae, latents = prepared(scene.vae, dtype, layout), scene.latents.to(dtype)
    decode = decoding(vae, layout, latents)
    seconds(lambda: decode(latents))
    with profiler(activities=[ProfilerActivity.CUDA]) as found:
        seconds(lambda: decode(latents))
    rows = [(event.key, event.count, event.self_device_time_total / 1e3) for event in found.key_averages()]
    return sorted(rows, key=lambda row: -row[2])


@torch.no_grad()
def main() -> None:
    """Measure each way, print a short table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--profile", metavar="WAY", help="list the kernels of one way last")
    parser.add_argument("--tiny", action="store_true", help="a small VAE and picture, to try this script")
    chosen = parser.parse_args()
    names = chosen.only.split(",") if chosen.only else list(WAYS if CUDA else CPU_WAYS)
    scene = Scene(64 if chosen.tiny else chosen.size, chosen.tiny)
    machine = torch.cuda.get_device_name() if CUDA else "cpu"
    results: dict[str, Any] = {"torch": torch.__version__, "device": machine, "size": chosen.size}
    began = time.perf_counter()
    for name in names:
        try:
            results[name] = measure(WAYS[name], scene, 2 if chosen.tiny else 10)
        except Exception as error:
            results[name] = {"failed": str(error).splitlines()[0]}
        torch.compiler.reset()
        print(f"[{time.perf_counter() - began:6.1f}] {name} {json.dumps(results[name])}", flush=True)
        save("decode.json", json.dumps(results, indent=1))
    if chosen.profile:
        results["profile"] = profile(chosen.profile, scene)
        save("decode.json", json.dumps(results, indent=1))
        for kernel, count, took in results["profile"][:25]:
            print(f"{took:7.3f} ms {count:4} {kernel[:100]}")
    print(f"torch {torch.__version__}, {machine}, {chosen.size}x{chosen.size}")
    print(f"{'':25} {'ms':>7} {'first s':>8} {'+GiB':>6} {'error':>8} {'PSNR':>6} {'demo':>6}")
    for name in names:
        row = results[name]
        if "failed" in row:
            print(f"{name:25} {row['failed']}")
            continue
        small = f"{row['demo_psnr']:6.1f}" if "demo_psnr" in row else f"{'-':>6}"
        print(
            f"{name:25} {row['ms']:7.1f} {row['first_s']:8.2f} {row['peak_gib']:6.2f} {row['error']:8.1e}"
            f" {row['psnr']:6.1f} {small}"
        )


if __name__ == "__main__":
    main()
