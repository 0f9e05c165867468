"""Replay of a call of a UNet or ControlNet as one CUDA graph, so that the host no longer sets the pace."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from ipa_cli.backends.base import Denoiser
from ipa_cli.unet.inputs import Context, ControlInputs, UNetInputs, tensors

Inputs = UNetInputs | ControlInputs
MOST = 16  # graphs that one denoiser keeps: those replayed last
# First weight of a UNet -> weak reference to the memory of all graphs that call it.
_POOLS: Any = WeakIdKeyDictionary()


class _Pool:
    """A memory pool of CUDA graphs, which all hold it: torch refuses to capture into one whose graphs are all gone."""

    def __init__(self) -> None:
        self.handle = torch.cuda.graph_pool_handle()


def _pool(weight: Tensor) -> _Pool:
    """The pool of the graphs that there are for a UNet with this first weight, or a new one."""
    found = _POOLS.get(weight)
    pool = None if found is None else found()
    if pool is None:
        pool = _Pool()
        _POOLS[weight] = weakref.ref(pool)
    return pool


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which all graphs of a GPU are captured: for each stream cuBLAS keeps 32 MiB or more of its own."""
    return torch.cuda.Stream(device)


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    pool: _Pool
    buffers: list[Tensor]  # the inputs that the graph reads, without the context
    output: Any


class _Held(NamedTuple):
    context: Context  # the buffers that the graphs read
    source: list[tuple[Tensor, int]]  # whose contents they hold: tensor and version


class CudaGraphs:
    """A `Denoiser` that captures `call` once per input shape and replays it, bit-equal to `call`.

    All graphs that call one UNet share a memory pool, since one of them runs at a time and its output is copied. Those
    that differ in picture size alone share the buffers of the context, which is copied only when its keys and values
    change. Weights are read where they are: changing one in place is followed, replacing its tensor is not; `refresh`
    is called first each time, for what `call` makes of weights beforehand. `captures` counts the captured graphs.
    """

    def __init__(self, call: Denoiser, unet: torch.nn.Module, refresh: Callable[[], None] | None = None):
        self._call, self._refresh = call, refresh
        self._weight = next(unet.parameters())
        self._graphs: OrderedDict[tuple, _Captured] = OrderedDict()
        self._contexts: dict[tuple, _Held] = {}
        self.captures = 0

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> Any:
        if self._refresh is not None:
            self._refresh()
        context = self._hold(inputs.context)
        changing = _changing(inputs)
        values = tensors(changing)
        key = (id(context), *changing, *_shapes(values))
        if key not in self._graphs:
            self._make_room(context)
            self._graphs[key] = self._capture(replace(inputs, context=context))
            self.captures += 1
        self._graphs.move_to_end(key)
        captured = self._graphs[key]
        for buffer, value in zip(captured.buffers, values, strict=True):
            buffer.copy_(value)
        captured.graph.replay()
        return pytree.tree_map(torch.clone, captured.output)

    def _make_room(self, needed: Context) -> None:
        """Let go of the graphs not replayed for longest, and of contexts that no graph reads."""
        while len(self._graphs) >= MOST:
            self._graphs.popitem(last=False)
        read = {id(needed), *(key[0] for key in self._graphs)}
        self._contexts = {shape: held for shape, held in self._contexts.items() if id(held.context) in read}

    def _hold(self, context: Context) -> Context:
        values = _without_scale(context)
        source = [(tensor, 0 if tensor.is_inference() else tensor._version) for tensor in values]
        key = (*_shapes((context.scale, *values)), len(context.image), len(context.mask), len(context.regions))
        held = self._contexts.get(key)
        if held is None:
            self._contexts[key] = held = _Held(pytree.tree_map(torch.clone, context), source)
        elif any(a is not b or x != y for (a, x), (b, y) in zip(source, held.source, strict=True)):
            torch._foreach_copy_(_without_scale(held.context), values)
            self._contexts[key] = _Held(held.context, source)
        held.context.scale.copy_(context.scale)
        return held.context

    def _capture(self, inputs: Inputs) -> _Captured:
        static = replace(inputs, **pytree.tree_map(torch.clone, _changing(inputs)))
        device = static.sample.device
        stream = _stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # libraries choose their kernels and allocate before the capture
            for _ in range(2):
                self._call(static)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph, pool = torch.cuda.CUDAGraph(), _pool(self._weight)
        # By default it fails, as they do, when other threads wait for pictures meanwhile.
        with torch.cuda.graph(graph, pool=pool.handle, stream=stream, capture_error_mode="thread_local"):
            output = self._call(static)
        return _Captured(graph, pool, tensors(_changing(static)), output)


def _changing(inputs: Inputs) -> dict[str, Any]:
    """The members that are copied at every call, by name: those present, without the context."""
    return {name: member for name, member in vars(inputs).items() if name != "context" and member is not None}


def _without_scale(context: Context) -> list[Tensor]:
    """The keys and values, the masks and the shares."""
    return tensors((context.text, context.image, context.mask, context.regions, context.share))


def _shapes(tensors: Iterable[Tensor]) -> tuple:
    return tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
