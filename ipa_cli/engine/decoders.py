"""The graph of a VAE's decoder: one for each size of picture, made by `ipa compile` and used wherever it is found."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ipa_cli import backends, cache
from ipa_cli.cache import Entry, Store, keys
from ipa_cli.cache.keys import GraphKey
from ipa_cli.config import Settings
from ipa_cli.config.privacy import public_name
from ipa_cli.engine import graphs, sharing
from ipa_cli.engine.content import LRU
from ipa_cli.engine.ready import Ready
from ipa_cli.engine.store import graph_store
from ipa_cli.engine.wanted import machine, plain
from ipa_cli.models.configurations import latent_factor
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    import torch

    from ipa_cli.backends.base import DecoderBackend
    from ipa_cli.pipeline.decoding import Decode

KIND = "decoder"
SIZES = 16  # whose decoders are kept open, those used last


@dataclass(frozen=True)
class Wanted:
    """The decoder for pictures of one size in pixels, compiled by a backend as `--compile-options` say."""

    backend: str
    width: int
    height: int
    compile_options: str | None

    @property
    def options(self) -> dict[str, Any]:
        """The options that count for a decoder."""
        backend = backends.get(self.backend)
        chosen = backend.options(self.compile_options)
        return {name: chosen[name] for name in backend.CAPABILITIES.decoder_options}


@dataclass(frozen=True)
class Decoder:
    """`decode` by a graph, and where it came from: `origin` is cache or compiled; times in seconds."""

    decode: Decode
    backend: str
    entry: Entry
    origin: str
    open_s: float = 0.0
    compile_s: float = 0.0


class Kept:
    """The decoders that were found for a model's VAE; none where it `decodes_plainly`: offloaded or in tiles."""

    def __init__(self, settings: Settings, device: torch.device, decodes_plainly: bool, reporter: Reporter):
        self._settings, self._device, self._plainly, self._reporter = settings, device, decodes_plainly, reporter
        self._found: LRU[Decoder | None] = LRU(SIZES)

    def clear(self) -> None:
        """Let go of all."""
        self._found.clear()

    def wanted(self, backend: str, width: int, height: int) -> Wanted | None:
        """The decoder for a size; None where the backend has none."""
        if self._plainly or not possible(backend, self._device):
            return None
        return Wanted(backend, width, height, self._settings.compile_options)

    def find(self, vae: Any, ready: Ready, width: int, height: int) -> Decode | None:
        """What decodes pictures of a size that `ready` draws, where its graph is in the cache."""
        wanted = None if ready.entry is None else self.wanted(ready.backend, width, height)
        if wanted is None:
            return None
        store = graph_store(self._settings)
        found = self._found.get(wanted, lambda: find(vae, wanted, store, self._reporter))
        return None if found is None else found.decode


def possible(backend: str, device: torch.device) -> bool:
    """Whether the backend makes graphs of decoders for this device."""
    return backend in backends.MODULES and device.type in backends.get(backend).CAPABILITIES.decoders


def key(vae: Any, wanted: Wanted) -> GraphKey:
    """The graph's identity: all that can change its code, but not the weights."""
    gpu, of_machine = machine(vae.device)
    facts = {
        **of_machine,
        **backends.get(wanted.backend).versions(),
        "code": backends.code(wanted.backend),
        "vae": plain(dict(vae.config)),
        "eps": vae.decoder.conv_norm_out.eps,  # other than the usual one where it was made fit for fp16
        "dtype": str(vae.dtype).removeprefix("torch."),
        "options": plain(wanted.options),
        "width": wanted.width,
        "height": wanted.height,
    }
    return GraphKey(wanted.backend, gpu, f"{KIND}-{wanted.width}x{wanted.height}", keys.flatten(facts))


def find(vae: Any, wanted: Wanted, store: Store, reporter: Reporter) -> Decoder | None:
    """The decoder by its graph in the cache, or a shared one; None where none may be opened, with a warning."""
    own = key(vae, wanted)
    found = cache.lookup(store, own)
    entry = found.entry if isinstance(found, cache.Hit) else sharing.fetch(store, own, None, reporter)
    if entry is None:
        return None
    try:
        return _open(vae, store, entry)
    except (cache.DamagedGraph, cache.Refused) as error:
        reporter.warn(f"{error.message}: pictures are decoded without it")
        return None


def prepare(vae: Any, wanted: Wanted, model: str, store: Store, reporter: Reporter) -> Decoder:
    """The decoder by its graph, from the cache or compiled now. Raises what `graphs.prepare` does."""
    import torch

    found = find(vae, wanted, store, reporter)
    if found is not None:
        return found
    module, options, started = _module(wanted.backend), wanted.options, time.perf_counter()
    factor = latent_factor(vae.config)
    shape = (1, vae.config.latent_channels, wanted.height // factor, wanted.width // factor)
    latents = torch.zeros(shape, device=vae.device, dtype=vae.dtype)
    dtype = str(vae.dtype).removeprefix("torch.")
    describe = {"model": public_name(model), "options": plain(options), "dtype": dtype}
    with reporter.stage(f"compiling the decoder for {wanted.width}x{wanted.height}") as doing:
        built = cache.build(
            store,
            key(vae, wanted),
            describe,
            lambda folder: graphs.warn_of(module.compile_decoder(vae, latents, folder, options, doing), reporter),
            waiting=lambda: doing("another process is compiling this graph"),
            room=graphs.COMPILING,
        )
    seconds = time.perf_counter() - started
    origin = "compiled" if built.fresh else "cache"
    if built.fresh:
        sharing.send(store, built.entry, reporter)
    return replace(_open(vae, store, built.entry), origin=origin, compile_s=seconds)


def _open(vae: Any, store: Store, entry: Entry) -> Decoder:
    started = time.perf_counter()
    with cache.open_graph(store, entry) as folder:
        decode = _module(entry.backend).load_decoder(vae, folder)
    return Decoder(decode, entry.backend, entry, "cache", time.perf_counter() - started)


def _module(backend: str) -> DecoderBackend:
    return cast("DecoderBackend", backends.get(backend))
