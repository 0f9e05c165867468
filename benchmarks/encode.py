"""What a new picture to draw over costs before the first step: reading, its pixels, the VAE's encoder, its latents.

    python benchmarks/encode.py [--size 1024] [--repeats 10] [--output FOLDER] [--tiny]

SDXL's VAE with seeded random weights. First the parts: reading a PNG, bringing one twice as large to size, pixels made
on the CPU and sent, pixels made of bytes on the device, latents. Then the encoder by several ways: "ours" has
`channels_last.convert`; float32 has TF32 in its convolutions, as torch has by itself; the error of the mean is that
against float32 without. What `benchmarks/img2img.py` shows beyond these rows is neither picture nor encoder. About 30 s
on one GPU. encode.json in the output folder has all rows so far. `--tiny` runs the miniature at 64x64.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# In place of this folder, whose files have names that libraries look for.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.decode import CUDA, DEVICE, demo, peak_gib, sdxl, seconds  # noqa: E402
from benchmarks.results import folder  # noqa: E402
from ipa_cli.images import init_image, reference  # noqa: E402
from ipa_cli.models.vae import channels_last  # noqa: E402
from ipa_cli.pipeline import start  # noqa: E402

# name: dtype of the weights, layout, whether it is encoded in float32 all the same
WAYS: dict[str, tuple[torch.dtype, str, bool]] = {
    "fp32, torch's norms, nchw": (torch.float32, "nchw", False),
    "fp16 to fp32, torch's norms, nhwc (as ipa did)": (torch.float16, "nhwc", True),
    "fp16 to fp32, ours (as ipa does)": (torch.float16, "ours", True),
    "fp16, torch's norms, nhwc": (torch.float16, "nhwc", False),
    "fp16, ours": (torch.float16, "ours", False),
}
CPU_WAYS = ("fp32, torch's norms, nchw", "fp16 to fp32, ours (as ipa does)")


def pixels_on_the_cpu(picture: Image.Image, dtype: torch.dtype) -> torch.Tensor:
    """The same numbers as `start.pixels_of`, computed before they are sent."""
    values = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)[None] * 2 - 1
    return values.to(DEVICE, dtype)


def prepared(exact: Any, dtype: torch.dtype, layout: str) -> Any:
    """A copy of the VAE as a way wants it."""
    vae = torch.nn.Module.to(copy.deepcopy(exact), dtype)
    if layout == "ours":
        channels_last.convert(vae)
    return vae.to(memory_format=torch.channels_last) if layout == "nhwc" else vae


def median_ms(call: Callable[[], Any], repeats: int) -> float:
    """The middle of several times, after one that does not count."""
    seconds(call)
    return sorted(seconds(call) for _ in range(repeats))[repeats // 2] * 1e3


@torch.no_grad()
def main() -> None:
    """Time the parts, then the ways; print a table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=folder, default=".")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    side = 64 if asked.tiny else asked.size
    exact = demo() if asked.tiny else sdxl()
    machine = torch.cuda.get_device_name() if CUDA else "cpu"
    rows: dict[str, Any] = {"torch": torch.__version__, "device": machine, "size": side}
    began = time.perf_counter()

    def add(name: str, **figures: float) -> None:
        rows[name] = figures
        print(f"[{time.perf_counter() - began:6.1f}] {name} {json.dumps(figures)}", flush=True)
        (asked.output / "encode.json").write_text(json.dumps(rows, indent=1))

    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    picture = coarse.resize((side, side), Image.Resampling.BICUBIC)
    large, png = coarse.resize((2 * side, 2 * side), Image.Resampling.BICUBIC), io.BytesIO()
    picture.save(png, "PNG")
    half, device = torch.float16, torch.device(DEVICE)
    generator = torch.Generator("cpu").manual_seed(0)
    found = start.moments(exact, start.pixels_of(picture, device, half), False)
    parts: dict[str, Callable[[], Any]] = {
        "read a PNG": lambda: Image.open(io.BytesIO(png.getvalue())).convert("RGB"),
        "digest": lambda: reference.of_image(picture),
        "half a size": lambda: init_image.fitted(large, (side, side)),
        "pixels on the CPU": lambda: pixels_on_the_cpu(picture, half),
        "pixels on the device": lambda: start.pixels_of(picture, device, half),
        "latents": lambda: start.latents(exact, found, [generator], half),
    }
    for name, call in parts.items():
        add(name, ms=median_ms(call, asked.repeats))
    pixels = start.pixels_of(picture, device, half)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = exact.encode(pixels.float())[0]
    for name in WAYS if CUDA else CPU_WAYS:
        dtype, layout, wide = WAYS[name]
        vae = prepared(exact, dtype, layout)
        held = torch.cuda.memory_allocated() / 2**30 if CUDA else 0.0
        torch.cuda.reset_peak_memory_stats() if CUDA else None
        ms = median_ms(lambda vae=vae, wide=wide: start.moments(vae, pixels, wide), asked.repeats)
        peak = peak_gib() - held if CUDA else 0.0
        mean = start.moments(vae, pixels, wide)[0]
        add(name, ms=ms, peak_gib=peak, error=float((mean.double() - expected.double()).norm() / expected.norm()))
        del vae
    print(f"torch {torch.__version__}, {machine}, {side}x{side}\n{'':36} {'ms':>7} {'+GiB':>6} {'error':>8}")
    for name, row in rows.items():
        if isinstance(row, dict):
            more = f" {row['peak_gib']:6.2f} {row['error']:8.1e}" if "error" in row else ""
            print(f"{name:36} {row['ms']:7.1f}{more}")


if __name__ == "__main__":
    main()
