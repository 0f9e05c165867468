"""The graph of a VAE's decoder: one for each size of picture, made by `ipa compile` and used wherever it is found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipa_cli import backends, cache
from ipa_cli.cache import Entry, Store, keys
from ipa_cli.cache.keys import GraphKey
from ipa_cli.config.privacy import public_name
from ipa_cli.engine import graphs
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    import torch

    from ipa_cli.pipeline.denoise import Decode

KIND = "decoder"


@dataclass(frozen=True)
class Decoder:
    """`decode` by a graph, and where it came from: `origin` is cache or compiled; times in seconds."""

    decode: Decode
    backend: str
    entry: Entry
    origin: str
    open_s: float = 0.0
    compile_s: float = 0.0


def possible(backend: str, device: torch.device) -> bool:
    """Whether the backend makes graphs of decoders for this device."""
    return backend in backends.MODULES and device.type in backends.get(backend).CAPABILITIES.decoders


def key(vae: Any, backend: str, width: int, height: int, options: Mapping[str, Any]) -> GraphKey:
    """The graph's identity for pictures of one size in pixels: all that changes its code, but not the weights."""
    gpu, machine = graphs.machine(vae.device)
    facts = {
        **machine,
        **backends.get(backend).versions(),
        "code": backends.code(backend),
        "vae": graphs.plain(dict(vae.config)),
        "eps": vae.decoder.conv_norm_out.eps,  # other than the configuration's where it was made fit for fp16
        "dtype": str(vae.dtype).removeprefix("torch."),
        "options": graphs.plain(options),
        "width": width,
        "height": height,
    }
    return GraphKey(backend, gpu, f"{KIND}-{width}x{height}", keys.flatten(facts))


def find(
    vae: Any, backend: str, width: int, height: int, options: Mapping[str, Any], store: Store, reporter: Reporter
) -> Decoder | None:
    """The decoder by its graph in the cache; None where there is none that opens, which is reported."""
    found = cache.lookup(store, key(vae, backend, width, height, options))
    if not isinstance(found, cache.Hit):
        return None
    try:
        return _open(vae, backend, store, found.entry)
    except (cache.DamagedGraph, cache.Refused) as error:
        reporter.warn(f"{error.message}: decoding without this graph")
        return None


def prepare(
    vae: Any,
    backend: str,
    latents: torch.Tensor,
    factor: int,
    options: Mapping[str, Any],
    model: str,
    store: Store,
    reporter: Reporter,
) -> Decoder:
    """The decoder for latents like these by its graph, from the cache or compiled now."""
    height, width = (side * factor for side in latents.shape[2:])
    own = find(vae, backend, width, height, options, store, reporter)
    if own is not None:
        return own
    module, started = backends.get(backend), time.perf_counter()
    describe = {"model": public_name(model), "options": graphs.plain(options), "dtype": str(vae.dtype)[6:]}
    with reporter.stage(f"compiling the decoder for {width}x{height}") as doing:
        built = cache.build(
            store,
            key(vae, backend, width, height, options),
            describe,
            lambda folder: module.compile_decoder(vae, latents, folder, options, doing),
            waiting=lambda: doing("another process is compiling this graph"),
            room=graphs.COMPILING,
        )
    seconds = time.perf_counter() - started
    made = _open(vae, backend, store, built.entry)
    return Decoder(made.decode, backend, built.entry, "compiled" if built.fresh else "cache", made.open_s, seconds)


def _open(vae: Any, backend: str, store: Store, entry: Entry) -> Decoder:
    started = time.perf_counter()
    with cache.open_graph(store, entry) as folder:
        decode: Callable[[torch.Tensor], torch.Tensor] = backends.get(backend).load_decoder(vae, folder)
    return Decoder(decode, backend, entry, "cache", time.perf_counter() - started)
