"""Which memory the CUDA graphs of a UNet are captured into."""

import gc
import threading
import weakref
from contextlib import contextmanager

import pytest
import torch

from ipa_cli.backends import cuda_graph, eager
from ipa_cli.backends.cuda_graph import CudaGraphs
from tests.unets import example, moved, tiny


class Allocator:
    """Counts the living graphs of each pool, as torch's does, and refuses a pool that has lost all."""

    def __init__(self) -> None:
        self.living: dict[int, int] = {}
        self.captured: list[int] = []  # the pool of each capture
        self.streams: list[Stream] = []

    def handle(self) -> int:
        return -1 - len(self.captured)

    @contextmanager
    def capture(self, graph: object, pool: int, stream: object, capture_error_mode: str):
        assert stream in self.streams and capture_error_mode == "thread_local"
        assert self.living.get(pool, 1) > 0, "it->second->use_count > 0"
        self.living[pool] = self.living.get(pool, 0) + 1
        weakref.finalize(graph, self._release, pool)
        self.captured.append(pool)
        yield

    def stream(self, device: object) -> "Stream":
        self.streams.append(Stream())
        return self.streams[-1]

    def _release(self, pool: int) -> None:
        self.living[pool] -= 1


class Graph:
    """One that does nothing when it is replayed: its output stays what the capture computed."""

    def replay(self) -> None:
        pass


class Stream:
    def wait_stream(self, other: object) -> None:
        pass


@pytest.fixture
def allocator(monkeypatch):
    made = Allocator()

    @contextmanager
    def stream(_):
        yield

    fakes = {
        "CUDAGraph": Graph,
        "graph": made.capture,
        "graph_pool_handle": made.handle,
        "Stream": made.stream,
        "current_stream": lambda device: Stream(),
        "stream": stream,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    cuda_graph._stream.cache_clear()
    yield made
    cuda_graph._stream.cache_clear()


def test_graphs_of_one_unet_share_memory_as_long_as_one_of_them_lives(allocator):
    unet, adapters = tiny()
    inputs = [example(unet, adapters, side, 16) for side in (8, 16, 24)]
    first, second = CudaGraphs(unet, unet), CudaGraphs(unet, unet)
    first(inputs[0])
    second(inputs[1])
    del first
    gc.collect()
    CudaGraphs(unet, unet)(inputs[2])
    assert len(set(allocator.captured)) == 1 and len(allocator.captured) == 3


def test_graphs_are_captured_again_after_all_of_a_unet_are_gone(allocator):
    unet, adapters = tiny()
    inputs = example(unet, adapters, 8, 16)
    kept = CudaGraphs(unet, unet)
    for _ in range(2):
        CudaGraphs(unet, unet)(inputs)
        gc.collect()
    kept(inputs)  # one made before the others were gone
    assert len(set(allocator.captured)) == 3
    assert len(allocator.streams) == 1


def test_other_unets_have_memory_of_their_own(allocator):
    for unet, adapters in (tiny(), tiny()):
        CudaGraphs(unet, unet)(example(unet, adapters, 8, 16))
    assert len(set(allocator.captured)) == 2


@pytest.mark.gpu
def test_a_gpu_captures_again_after_all_graphs_of_a_unet_are_gone():
    unet, adapters = tiny()
    inputs = [moved(example(unet, adapters, side, 16), torch.float32) for side in (8, 16)]
    unet.to("cuda")
    plain = eager.load(unet, None, eager.options({"cuda_graph": False}))
    held = []
    for _ in range(4):
        graph = eager.load(unet, None, eager.options(None))
        assert isinstance(graph, cuda_graph.CudaGraphs)
        for one in (*inputs, inputs[0]):
            assert torch.equal(graph(one), plain(one))
        assert graph.captures == 2
        held.append(torch.cuda.memory_reserved())
        del graph
        gc.collect()
    assert held[-1] <= held[1]


@pytest.mark.gpu
def test_a_gpu_captures_while_another_thread_waits_for_what_was_drawn():
    unet, adapters = tiny()
    inputs = [moved(example(unet, adapters, side, 16), torch.float32) for side in range(8, 40, 8)]
    unet.to("cuda")
    plain = eager.load(unet, None, eager.options({"cuda_graph": False}))
    graph = eager.load(unet, None, eager.options(None))
    stop, waits, failed = threading.Event(), [], []

    def wait() -> None:
        try:
            while not stop.is_set():
                event = torch.cuda.Event(blocking=True)
                event.record(stream)
                event.synchronize()
                waits.append(event)
        except RuntimeError as error:
            failed.append(error)

    stream = torch.cuda.Stream()
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        outputs = [graph(one) for one in inputs]
    finally:
        stop.set()
        thread.join()
    assert not failed and len(waits) > 10
    assert all(torch.equal(output, plain(one)) for output, one in zip(outputs, inputs, strict=True))
