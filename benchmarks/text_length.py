"""What a graph for any number of text tokens costs beside one for 77: full-size SDXL of random weights, on one GPU.

    python benchmarks/text_length.py [--tiny]

Guidance, 4 image tokens, fp16, 1024 x 1024. A row has the best of three means of 50 calls sent one after the other,
all graphs in turn, and the relative error against eager. Static graphs for 154 and 231 tokens show what length costs.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.graph import IMAGE_DIM, SDXL, TINY, build, inputs, pipelined, relative
from ipa_cli.backends.inductor import backend
from ipa_cli.unet.attention import project

LENGTHS = (77, 154, 231)
RANGE = [77, 308]


def with_text(unet: Any, adapters: Any, size: int, tokens: int) -> Any:
    """A step's inputs with so many text tokens."""
    made = inputs(unet, adapters, size, 1.0)
    generator = torch.Generator("cpu").manual_seed(tokens)
    text, image = (
        torch.randn(2, count, width, generator=generator).to(unet.device, unet.dtype)
        for count, width in ((tokens, unet.config.cross_attention_dim), (1, IMAGE_DIM))
    )
    return replace(made, context=project(unet, adapters, text, [image], made.context.scale))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    tiny = parser.parse_args().tiny
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    unet, adapters = build(TINY if tiny else SDXL, device, dtype)
    size, repeats = (128, 3) if tiny else (1024, 50)
    given = {tokens: with_text(unet, adapters, size, tokens) for tokens in LENGTHS}
    with torch.no_grad():
        eager = {tokens: unet(one).clone() for tokens, one in given.items()}
    ways: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        for name, span, example in (
            *((f"static {tokens}", None, tokens) for tokens in LENGTHS),
            ("dynamic {}..{}".format(*RANGE), RANGE, LENGTHS[0]),
        ):
            folder, began = Path(work, name.replace(" ", "-")), time.perf_counter()
            folder.mkdir()
            options = backend.options({"preset": "fast", "text": span})
            backend.compile(unet, given[example], folder, options, lambda _: None)
            print(f"{name}: compiled in {time.perf_counter() - began:.0f} s", flush=True)
            ways[name] = backend.load(unet, folder, options), LENGTHS if span else (example,)
        times: dict[tuple[str, int], list[float]] = {}
        errors: dict[tuple[str, int], float] = {}
        for _ in range(3):  # in turn, so that a GPU that slows down slows all
            for name, (denoiser, lengths) in ways.items():
                for tokens in lengths:
                    errors[name, tokens] = relative(denoiser(given[tokens]), eager[tokens])
                    times.setdefault((name, tokens), []).append(pipelined(partial(denoiser, given[tokens]), repeats))
    print(f"\n{'graph':<16}{'tokens':>7}{'ms':>9}{'of static':>11}{'error':>10}")
    for (name, tokens), found in times.items():
        best, static = min(found), min(times[f"static {tokens}", tokens])
        print(f"{name:<16}{tokens:>7}{best:>9.3f}{(best / static - 1) * 100:>+10.2f}%{errors[name, tokens]:>10.1e}")


if __name__ == "__main__":
    main()
