"""`ipa compile`: put the graphs for given picture sizes into the cache, unless they are there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ipa_cli import backends, cache
from ipa_cli.config import Settings
from ipa_cli.engine.backend_choice import check_backend
from ipa_cli.engine.decoders import Decoder
from ipa_cli.engine.engine import Engine
from ipa_cli.engine.ready import Ready
from ipa_cli.engine.store import graph_store
from ipa_cli.engine.wanted import asked_options
from ipa_cli.errors import UsageError
from ipa_cli.images import faces
from ipa_cli.models.lora import lora
from ipa_cli.models.plan import DEMO, Plan, make_plan
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.task import Request, make_request
from ipa_cli.result import Reporter


@dataclass(frozen=True)
class Graph:
    """A graph in the cache: `origin` is compiled or cache; times in seconds, sizes in bytes."""

    id: str
    origin: str
    backend: str
    model: str
    shape: str
    compile_s: float
    open_s: float
    size: int
    path: str


@dataclass(frozen=True)
class Compiled:
    """What `ipa compile` did; `load_s` is the time until the weights were loaded."""

    graphs: tuple[Graph, ...]
    device: str
    dtype: str
    load_s: float


def compile(
    settings: Settings,
    sizes: Sequence[tuple[int, int]],
    span: tuple[int, int] | None,
    reporter: Reporter,
    shows_bars: bool,
) -> Compiled:
    """Compile for each of `sizes`, (width, height) in pixels, or once for all sides within `span`.

    Raises UsageError for a backend that does not compile, IpaError when it cannot work here.
    """
    name = check_backend(backends.PREFERRED if settings.backend == backends.AUTO else settings.backend)
    backends.require(name, "compiles", *(() if span is None else ("dynamic_sizes",)))
    backend = backends.get(name)
    problem = backend.toolchain_problem()
    if problem is not None:
        raise problem
    options = asked_options(backend, name, settings)
    if span is not None:
        options = backend.options({**options, "dynamic": list(span)})
    span = options.get("dynamic")
    for width, height in sizes:
        if span and not span[0] <= min(width, height) <= max(width, height) <= span[1]:
            raise UsageError(
                f"the size {width}x{height} is outside of {span[0]}..{span[1]}",
                "one graph serves all sizes of a range: leave out --size, or choose one within it",
            )
    if not (settings.image or settings.embeds or settings.adapter) and settings.ip_adapter != "none":
        # A graph for references is wanted; which picture it is compiled with does not matter.
        settings = replace(settings, image=(str(DEMO / "reference.png"),))
    maps = [replace(one, image=one.image or str(DEMO / "reference.png")) for one in settings.control]
    settings = replace(settings, control=tuple(maps), backend=name, prompt=settings.prompt or "", seed=0)
    if settings.hires is not None:
        settings = replace(settings, hires_strength=1.0, hires_steps=None)  # a graph knows nothing of these
    plan = make_plan(settings)
    loaded = load_references(settings, reporter)
    if lora.load(settings.lora, plan, reporter):
        reporter.note("a LoRA needs no graph of its own: it is merged into the weights, which a graph takes as inputs")
    store = graph_store(settings)
    if not cache.scan_backend(store, name):  # a graph that is there takes no room, and no right to write
        cache.check_storable(store)

    started = time.perf_counter()
    engine = Engine.open(replace(settings, gpus=1), plan, reporter, shows_bars)
    load_s = time.perf_counter() - started
    asked = [replace(settings, width=width, height=height) for width, height in sizes] or [
        _example(settings, plan, span)
    ]
    done = []
    for each in asked[:1] if span else asked:
        request = make_request(each, plan, loaded, (), reporter, faces.stand_in)
        request = replace(request, batch_size=settings.batch_size)
        if settings.gpus > 1:  # each computes half of a call, as without guidance
            request = replace(request, guidance_scale=1.0)
        if span:
            _check_within(span, request)
        made = engine.compile(request, options)
        decoders = [] if span else [engine.compile_decoder(one) for one in request.passes]
        done += [_graph(one, plan.name) for one in (*made, *decoders) if one is not None]
    return Compiled(tuple(done), str(engine.device), str(engine.dtype).removeprefix("torch."), load_s)


def _check_within(span: Sequence[int], request: Request) -> None:
    """Raise UsageError unless every pass has a size within a span, so that one graph serves all."""
    for one in request.passes:
        if not span[0] <= min(one.width, one.height) <= max(one.width, one.height) <= span[1]:
            raise UsageError(
                f"the hires pass would be {one.width}x{one.height}, outside of {span[0]}..{span[1]}",
                "choose a range with both sizes: --dynamic 512..1536",
            )


def _example(settings: Settings, plan: Plan, span: Sequence[int] | None) -> Settings:
    """`settings` with a size to compile with: the usual one, or the middle of a `span` that it is not in."""
    if span is None:
        return settings
    low, high = span
    middle = max(low, (low + high) // 2 // 64 * 64)
    usual = {name: getattr(settings, name) or plan.defaults[name] for name in ("width", "height")}
    width, height = (side if low <= side <= high else middle for side in usual.values())
    return replace(settings, width=width, height=height)


def _graph(ready: Ready | Decoder, model: str) -> Graph:
    entry = ready.entry
    assert entry is not None, "prepare keeps what a compiling backend makes"
    return Graph(
        entry.id,
        ready.origin,
        ready.backend,
        model,
        entry.shape,
        ready.compile_s,
        ready.open_s,
        entry.size,
        str(entry.folder),
    )
