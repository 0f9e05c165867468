"""From a loaded UNet to a denoiser: which graph is wanted, whether the store has one that fits, and building it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli import backends, cache
from ipa_cli.cache import Entry, Store
from ipa_cli.cache.keys import GraphKey
from ipa_cli.config import Settings
from ipa_cli.config.privacy import public_name
from ipa_cli.engine import sharing
from ipa_cli.engine.ready import Ready
from ipa_cli.engine.wanted import Wanted, ask, covers, fits, in_the_code, key, made_with, plain, span_of
from ipa_cli.errors import IpaError
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    from ipa_cli.backends.base import Backend
    from ipa_cli.unet.inputs import ControlInputs, UNetInputs

    Inputs = UNetInputs | ControlInputs

SMALL = 100_000_000  # parameters of a UNet; a smaller one draws faster uncompiled than it compiles
COMPILING = 512 << 20  # bytes that must be free on disk; 307 MB were seen in use, by two processes for the miniature


class NoGraph(IpaError):
    """There is no graph, and none may be compiled."""


def find(store: Store, unet: Any, wanted: Wanted) -> Entry | cache.Miss:
    """The best graph in the store for `wanted`: its own, else one that covers the size, the most worked-on first.

    With two passes one that covers both sizes comes before that.

    One that may not be loaded is the answer only where no other serves: opening it tells why.
    """
    own = key(unet, wanted)

    def best(entries: Sequence[Entry]) -> Entry:
        return max(
            entries, key=lambda entry: (cache.trust_problem(entry) is None, not span_of(entry), entry.build_seconds)
        )

    def fitting() -> list[Entry]:
        entries = [item for item in cache.scan_backend(store, wanted.backend) if isinstance(item, Entry)]
        return [entry for entry in entries if fits(entry, own, wanted)]

    if wanted.other_size is not None and (both := [entry for entry in fitting() if covers(entry, wanted.other_size)]):
        return best(both)
    found = cache.lookup(store, own)
    if isinstance(found, cache.Hit):
        return found.entry
    others = fitting()
    return best(others) if others else found


def prepare_unkept(unet: Any, wanted: Wanted, reporter: Reporter) -> Ready:
    """A denoiser compiled for this process alone, where the cache cannot keep it.

    Raises StoreError where TMPDIR has no room, or others may write.
    """
    module = backends.get(wanted.backend)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ipa-graph-") as folder, reporter.stage("compiling") as doing:
        cache.check_temporary_folder(Path(folder))
        cache.check_free_space(Path(folder), COMPILING, "compiling")
        warn_of(module.compile(unet, wanted.example, Path(folder), wanted.compile_options, doing), reporter)
        compiled = time.perf_counter()
        denoiser = module.load(unet, Path(folder), wanted.compile_options)
    seconds = time.perf_counter() - compiled
    why = "compiled just now, not kept"
    return Ready(denoiser, wanted.backend, "compiled", why, None, seconds, compiled - started)


def prepare_offloaded(unet: Any, name: str, reporter: Reporter) -> Ready:
    """A denoiser for weights that move between calls: a CUDA graph remembers where they lie."""
    reporter.note("weights are offloaded: the UNet runs uncompiled and without a CUDA graph")
    options = {**backends.get(name).options(None), "cuda_graph": False}
    return Ready(backends.get(name).load(unet, None, options), name, "uncompiled", "weights are offloaded")


def choose(
    unet: Any,
    example: Inputs,
    model: str,
    settings: Settings,
    store: Store,
    reporter: Reporter,
    opened: Sequence[Ready] = (),
    latent_factor: int = backends.LATENT_FACTOR,
    other_size: tuple[int, int] | None = None,
) -> Ready:
    """`--backend auto`: a graph that is in the cache or worth compiling here, else eager. Says which and why."""
    preferred, uncompiled = backends.PREFERRED, backends.UNCOMPILED
    reason = backends.problem(preferred)
    if reason is None:
        backend = backends.get(preferred)
        wanted = ask(backend, preferred, model, example, settings, latent_factor, other_size)
        reason = _not_worth_it(unet, settings.compile) or backend.toolchain_problem()
        try:
            return prepare(unet, wanted, store, reason is None, reporter, opened)
        except NoGraph as error:
            if wanted.options.get("precision") == "fp8":
                reporter.warn("without a graph nothing is drawn in fp8")
            reason = IpaError(f"{error.message}, {reason.message}", reason.hint) if reason else error
            reporter.detail(f"backend {uncompiled}: {reason.message}")  # the result says it too
        except IpaError as error:
            reason = error
            reporter.warn(f"backend {uncompiled}: {reason.message}; {reason.hint}")
    else:
        reporter.detail(f"backend {uncompiled}: {reason.message}")  # the result says it too
    if settings.given("compile_options"):
        reporter.note(f"--compile-options has no effect with the backend {uncompiled}: --backend {preferred} compiles")
    wanted = Wanted(uncompiled, model, example, backends.get(uncompiled).options(None), (), latent_factor)
    ready = prepare(unet, wanted, store, False, reporter, opened)
    return ready if ready in opened else replace(ready, why=reason.message)


def prepare_asked(
    backend: str,
    unet: Any,
    example: Inputs,
    model: str,
    settings: Settings,
    store: Store,
    reporter: Reporter,
    opened: Sequence[Ready] = (),
    latent_factor: int = backends.LATENT_FACTOR,
    other_size: tuple[int, int] | None = None,
) -> Ready:
    """A denoiser by the backend that is asked for; with a word where the cache cannot keep its graph."""
    wanted = ask(backends.get(backend), backend, model, example, settings, latent_factor, other_size)
    try:
        return prepare(unet, wanted, store, settings.compile, reporter, opened)
    except cache.StoreError as error:
        if not settings.compile:
            raise
        reporter.warn(f"{error.message} ({error.hint}): the graph serves this run alone")
        return prepare_unkept(unet, wanted, reporter)


def _not_worth_it(unet: Any, wished: bool) -> IpaError | None:
    """Why compiling unasked would cost more than it brings, in words."""
    hint = "`ipa compile` makes a graph"
    if not wished:
        return IpaError("and compiling is switched off", hint)
    if unet.device.type != "cuda":
        return IpaError("and compiling for a CPU takes minutes (`ipa compile` does it)", hint)
    if sum(weight.numel() for weight in unet.parameters()) < SMALL:
        return IpaError("and this model is quick enough without (`ipa compile` makes one)", hint)
    return None


def prepare(
    unet: Any,
    wanted: Wanted,
    store: Store,
    may_compile: bool,
    reporter: Reporter,
    opened: Sequence[Ready] = (),
) -> Ready:
    """A denoiser from the store, or compiled now; the same one again where `opened` has what serves.

    A damaged graph is reported and built again. Raises NoGraph when there is none and `may_compile` is false,
    StoreError when the cache cannot keep one or the graph there may not be loaded, IpaError when compiling fails.
    """
    module = backends.get(wanted.backend)
    if not module.CAPABILITIES.compiles:
        same = next((ready for ready in opened if ready.backend == wanted.backend), None)
        return same or Ready(
            module.load(unet, None, wanted.options), wanted.backend, "uncompiled", "asked for, nothing to compile"
        )
    own = key(unet, wanted)
    reporter.detail(f"looking in {store.root} for the graph {own.folder}")
    found = find(store, unet, wanted)
    if isinstance(found, Entry):
        same = next((ready for ready in opened if ready.entry and ready.entry.id == found.id), None)
        if same is not None:
            return same
        try:
            return _open(module, unet, wanted, store, found)
        except cache.DamagedGraph as lost:
            reporter.warn(lost.message)
            found = cache.Miss((lost.message,))
        except cache.Refused as refused:
            if not may_compile or found.key == own:  # nothing may take its place
                raise
            reporter.warn(f"{refused.message}; {refused.hint}")
            found = cache.Miss((refused.message,))
    shared = sharing.fetch(store, own, partial(fits, own=own, wanted=wanted), reporter)
    if shared is not None:
        return _open(module, unet, wanted, store, shared)
    if not may_compile:
        raise NoGraph(_no_graph(found), f"leave out --no-compile, or use --backend {backends.UNCOMPILED}")
    return _compile(module, unet, wanted, store, found, reporter)


def _open(module: Backend, unet: Any, wanted: Wanted, store: Store, entry: Entry) -> Ready:
    started = time.perf_counter()
    made = made_with(entry)
    if made is None:
        raise cache.Refused(f"graph {entry.id} does not say how it was compiled", f"`ipa cache clear {entry.id[:8]}`")
    with cache.open_graph(store, entry) as folder:
        denoiser = module.load(unet, folder, {**wanted.options, **made})
    seconds = time.perf_counter() - started
    return Ready(denoiser, wanted.backend, "cache", f"graph {entry.id} is in the cache", entry, open_s=seconds)


def _compile(module: Backend, unet: Any, wanted: Wanted, store: Store, miss: cache.Miss, reporter: Reporter) -> Ready:
    started = time.perf_counter()
    own = key(unet, wanted)
    describe = {
        "model": public_name(wanted.model),
        "options": plain(in_the_code(wanted.backend, wanted.options)),
        "dtype": own.factors["dtype"],
    }
    reporter.note(f"{_no_graph(miss)}: compiling{_estimate(store, own)}")
    size, _, calls = own.shape.rpartition("-b")
    with reporter.stage(f"compiling for {size}, {calls} in a call") as doing:
        built = cache.build(
            store,
            own,
            describe,
            lambda folder: warn_of(
                module.compile(unet, wanted.example, folder, wanted.compile_options, doing), reporter
            ),
            waiting=lambda: doing("another process is compiling this graph"),
            room=COMPILING,
        )
    if built.evicted.items:
        reporter.note(f"{len(built.evicted.items)} least recently used graphs made room (--cache-max-size)")
    compiled = time.perf_counter() - started
    ready = _open(module, unet, wanted, store, built.entry)
    if not built.fresh:
        return replace(ready, compile_s=compiled)
    sharing.send(store, built.entry, reporter)
    return replace(ready, origin="compiled", why=f"compiled just now as {built.entry.id}", compile_s=compiled)


def warn_of(warnings: Sequence[str] | None, reporter: Reporter) -> None:
    """Warn of what a backend returned."""
    for text in warnings or ():
        reporter.warn(text)


def _no_graph(miss: cache.Miss) -> str:
    return f"no graph in the cache ({miss.reason})" if miss.reasons else "no graph in the cache"


def _estimate(store: Store, own: GraphKey) -> str:
    """How long earlier graphs for this backend and GPU took, in words."""
    seconds = [
        item.build_seconds
        for item in cache.scan_backend(store, own.backend)
        if isinstance(item, Entry) and item.key.gpu == own.gpu
    ]
    return f", about {sorted(seconds)[len(seconds) // 2]:.0f} s as before" if seconds else ""
