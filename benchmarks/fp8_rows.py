"""Where a call of the UNet in fp8 differs between batches of two and of one, and between one GPU and two.

    python benchmarks/fp8_rows.py [--gpus 2] [--parts fp8,locate,memory,pair] [--cache FOLDER] [--output FOLDER]

One engine of full size with random weights, 1024x1024. Each way of making the noise of both halves of guidance is
compared with each other: eager, the parts of fp8 uncompiled, the graph for one row called twice, the graph for two
rows, both also without a CUDA graph. `pair`, with two GPUs: the row of each process, as usual and with the halves
exchanged; it comes as soon as there is the graph for one row, after 90 s at most, and again at the end. `memory`: the
same calls again after decoding, and after all free memory was filled with NaN; and whether what a call gave and is
kept on the GPU is still the same. `locate`: in one call of the graph for one row, and of that for two, the error of
each part for its own inputs. `half`, before or behind fp8: the graphs of half precision in an engine of their own,
another minute. 150 to 170 s, most of it compiling on 16 cores. A JSON file in the output folder has all lines so far.
`--tiny` runs the miniature in half precision on a CPU, to see that the script works.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose files have names that libraries look for

from benchmarks import two_gpus  # noqa: E402
from benchmarks.results import folder  # noqa: E402

PARTS = "fp8,locate,memory,pair"


def error(found: Any, expected: Any) -> float:
    """Relative error."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def exchanged(inputs: Any) -> Any:
    """The same call with the positive half first."""
    from torch import Tensor
    from torch.utils import _pytree as pytree

    def flip(tree: Any, dim: int) -> Any:
        return pytree.tree_map(lambda x: x.flip(dim).contiguous() if isinstance(x, Tensor) else x, tree)

    context = inputs.context
    context = context._replace(text=flip(context.text, 1), image=flip(context.image, 1))
    return replace(inputs, sample=flip(inputs.sample, 0), added=flip(inputs.added, 0), context=context)


class Rows:
    """The noise of both halves by several ways, and the table of their differences."""

    def __init__(self, output: Path):
        self.found: dict[str, Any] = {}
        self._given: dict[str, Any] = {}  # as they lie on the GPU
        self.lines: list[str] = []
        self._output, self._began = output, time.perf_counter()

    def add(self, name: str, call: Callable[[], Any]) -> None:
        """Keep what `call` gives, (2, 4, h, w), and say how far it is from the first and from the one before."""
        import torch

        noise = call()
        torch.cuda.synchronize() if torch.cuda.is_available() else None
        self._given[name] = noise
        self.found[name] = noise.float().cpu()
        first = next(iter(self.found.values()))
        each = " ".join(f"{error(one, other):.1e}" for one, other in zip(self.found[name], first, strict=True))
        self.say(f"{name:28} rows against the first way: {each}")

    def check_kept(self) -> None:
        """Whether anything has written over what the calls gave."""
        changed = [name for name, noise in self._given.items() if not noise.float().cpu().equal(self.found[name])]
        self.say(f"written over on the GPU since: {', '.join(changed) or 'nothing'}")

    def say(self, line: str) -> None:
        """Print a line, with the time, and keep all so far."""
        print(f"[{time.perf_counter() - self._began:6.1f}] {line}", flush=True)
        self.lines.append(line)
        names = list(self.found)
        table = {a: {b: self._errors(a, b) for b in names} for a in names}
        Path(self._output, "fp8_rows.json").write_text(json.dumps({"errors": table, "lines": self.lines}, indent=1))

    def _errors(self, found: str, expected: str) -> list[float]:
        return [error(one, other) for one, other in zip(self.found[found], self.found[expected], strict=True)]

    def table(self) -> str:
        """All against all: the larger error of the two rows."""
        names = list(self.found)
        lines = [" " * 31 + " ".join(f"{number:7}" for number in range(1, len(names) + 1))]
        for number, name in enumerate(names, 1):
            cells = " ".join(f"{max(self._errors(name, other)):7.1e}" for other in names)
            lines.append(f"{number:2} {name:28} {cells}")
        return "\n".join(lines)


def halved(call: Callable[[Any], Any], inputs: Any) -> Any:
    """The noise of both halves by a call for each."""
    import torch

    from ipa_cli.unet.inputs import halves

    return torch.cat([call(half).clone() for half in halves(inputs)])


def uncaptured(engine: Any, ready: Any, **more: Any) -> Any:
    """The graph of `ready` called without a CUDA graph."""
    from ipa_cli import backends, cache
    from ipa_cli.engine.store import graph_store

    backend = backends.get("inductor")
    options = {**backend.options(None), "precision": engine.settings.precision, "cuda_graph": False, **more}
    with cache.open_graph(graph_store(engine.settings), ready.entry) as folder:
        return backend.load(engine.model.unet, folder, options)


def locate(engine: Any, ready: Any, inputs: Any, rows: Rows, name: str) -> None:
    """Errors of each kind of part in a compiled call: against it uncompiled, and of that against half precision."""
    import torch

    from ipa_cli import backends, cache
    from ipa_cli.backends.inductor import loading
    from ipa_cli.backends.inductor.partition import aligned, partition, run_parts
    from ipa_cli.engine.store import graph_store

    unet, backend = engine.model.unet, backends.get("inductor")
    fp8 = {**backend.options(None), "precision": engine.settings.precision}
    parts = partition(unet, loading.kernel_options(fp8, unet.device), inputs.context)
    plain = partition(unet, loading.kernel_options({**fp8, "precision": "half"}, unet.device), inputs.context)
    calls: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    with cache.open_graph(graph_store(engine.settings), ready.entry) as folder:
        plan, found = loading._read_plan(folder, parts)
        for region in found:
            run = loading.open_compiled(folder / f"{region.name}.pt2", unet.device)
            calls |= {part: loading._call(run, region, parts[part], plan) for part in region.parts}
            kinds |= dict.fromkeys(region.parts, region.name)
    errors: dict[str, list[tuple[float, float, str]]] = {}

    def run_one(part: str, given: list[Any]) -> Any:
        given = [aligned(tensor) for tensor in given]
        kept = [tensor.clone() for tensor in given]
        out = calls[part](list(given))
        same, half = parts[part](kept), plain[part](kept)
        changed = any(not torch.equal(a, b) for a, b in zip(given, kept, strict=True))
        compiled = max(error(a, b) for a, b in zip(out, same, strict=True))
        rounded = max(error(a, b) for a, b in zip(same, half, strict=True))
        errors.setdefault(kinds[part], []).append((compiled, rounded, part + (" (inputs changed)" if changed else "")))
        return out

    with torch.no_grad():
        run_parts(unet, {part: parts[part] for part in calls}, inputs, run_one)
    rows.say(f"{name}: kind, its parts, largest error against uncompiled fp8, and of that against half, the worst part")
    for kind, each in sorted(errors.items()):
        worst, rounded = max(each), max(one[1] for one in each)
        rows.say(f"  {kind:22} {len(each):3} {worst[0]:8.1e} {rounded:8.1e}  {worst[2]}")


def fill_free_memory() -> None:
    """NaN, as floating point of any kind, wherever the allocator has a free block outside of CUDA graphs."""
    import torch

    size, held = 1 << 28, []
    while torch.cuda.is_available() and size >= 512:
        reserved = torch.cuda.memory_reserved()
        for _ in range(5000):
            held.append(torch.empty(size, dtype=torch.uint8, device="cuda").fill_(255))
            if torch.cuda.memory_reserved() > reserved:  # there was none of this size any more
                break
        size //= 2


def measure(asked: argparse.Namespace, precision: str, rows: Rows) -> None:
    """All parts that were asked for, with one engine."""
    import torch

    from ipa_cli.backends.inductor import loading
    from ipa_cli.backends.inductor.partition import partition, run_parts
    from ipa_cli.engine.engine import Engine
    from ipa_cli.models.plan import make_plan
    from ipa_cli.pipeline.denoise import positive_half
    from ipa_cli.pipeline.references import load_references
    from ipa_cli.pipeline.task import make_request
    from ipa_cli.result import NullReporter
    from ipa_cli.unet.inputs import halves

    chosen, reporter = asked.parts.split(","), NullReporter()
    two = asked.gpus == 2 and precision == "fp8"
    real = "half" if asked.tiny else precision
    settings = two_gpus.settings(asked, backend="inductor", precision=real, gpus=2 if two else 1)
    plan = make_plan(settings)
    request = make_request(settings, plan, load_references(settings, reporter))
    with closing(Engine.open(settings, plan, reporter)) as engine, torch.no_grad():
        rows.say(f"{precision}: the engine is open")
        pair, engine._denoisers._pair = engine._pair, None
        unet, inputs = engine.model.unet, engine.example_inputs(request)
        if precision == "fp8":
            rows.add("eager half, two rows", lambda: unet(inputs))
            rows.add("eager half, one row", lambda: halved(unet, inputs))
            negative, positive = rows.found["eager half, two rows"]
            rows.say(f"how far the negative row is from the positive one: {error(negative, positive):.1e}")
            options = loading.kernel_options({**usual_options(), "precision": real}, unet.device)

            def parts(given: Any) -> Any:
                found = partition(unet, options, given.context)
                return run_parts(unet, found, given, lambda name, tensors: found[name](tensors))

            rows.add("fp8 parts, two rows", lambda: parts(inputs))
            rows.add("fp8 parts, one row", lambda: halved(parts, inputs))
        conditions = engine._encodings.conditions(request)
        one = engine._denoisers.of_unet(request, positive_half(conditions))
        rows.say(f"graph for one row: {one.why}, {one.compile_s:.0f} s")
        rows.add(f"{precision} graph, one row", lambda: halved(one.denoiser, inputs))
        shared = None
        if two and "pair" in chosen:
            engine._denoisers._pair = pair
            shared = engine.prepare(request)
            rows.say("the second process is ready; below, the first row is this process's, the second the other one's")
            rows.add("two GPUs", lambda: shared.denoiser(inputs))
            rows.add("two GPUs, again", lambda: shared.denoiser(inputs))
            rows.add("two GPUs, rows exchanged", lambda: shared.denoiser(exchanged(inputs)).flip(0))
            rows.add("two GPUs, as before", lambda: shared.denoiser(inputs))
            engine.draw(replace(request, steps=3))
            rows.add("two GPUs, after drawing", lambda: shared.denoiser(engine.example_inputs(request)))
            rows.check_kept()
            print(rows.table(), flush=True)
            engine._denoisers._pair = None
        both = engine.prepare(request)
        rows.say(f"graph for two rows: {both.why}, {both.compile_s:.0f} s")
        rows.add(f"{precision} graph, two rows", lambda: both.denoiser(inputs))
        rows.add(f"{precision} graph, one row again", lambda: halved(one.denoiser, inputs))
        if precision != "fp8":
            return
        if "memory" in chosen:
            engine.draw(replace(request, steps=3))
            rows.add("two rows, after drawing", lambda: both.denoiser(engine.example_inputs(request)))
            rows.add("one row, after drawing", lambda: halved(one.denoiser, inputs))
        if shared is not None:
            engine._denoisers._pair = pair
            rows.add("two GPUs, after two rows", lambda: shared.denoiser(inputs))
            engine.draw(replace(request, steps=3))
            rows.add("two GPUs, and drawing", lambda: shared.denoiser(engine.example_inputs(request)))
            engine._denoisers._pair = None
        if "memory" in chosen:
            fill_free_memory()
            rows.add("two rows, memory filled", lambda: both.denoiser(inputs))
            rows.add("one row, memory filled", lambda: halved(one.denoiser, inputs))
            if shared is not None:
                rows.add("two GPUs, memory filled", lambda: shared.denoiser(inputs))
            rows.check_kept()
        print(rows.table(), flush=True)
        rows.add("fp8 no capture, one row", lambda: halved(uncaptured(engine, one), inputs))
        rows.add("fp8 no capture, two rows", lambda: uncaptured(engine, both)(inputs))
        if "locate" in chosen:
            locate(engine, one, halves(inputs)[1], rows, "one row, the positive one")
            locate(engine, one, halves(inputs)[0], rows, "one row, the negative one")
            locate(engine, both, inputs, rows, "two rows")


def usual_options() -> dict[str, Any]:
    """The backend's usual options."""
    from ipa_cli import backends

    return backends.get("inductor").options(None)


def main() -> None:
    """Measure the chosen parts, print a table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=PARTS)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--cache", default=str(Path(tempfile.gettempdir(), "ipa-two-gpus")))
    parser.add_argument("--output", type=folder, default=".")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    Path(asked.cache).mkdir(mode=0o700, exist_ok=True)
    rows = Rows(asked.output)
    for precision in asked.parts.split(","):
        if precision in two_gpus.KINDS:
            measure(asked, precision, rows)
    print("\nlarger error of the two rows, of each line's way against each column's")
    print(rows.table())


if __name__ == "__main__":
    main()
