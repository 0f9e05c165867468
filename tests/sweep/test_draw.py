"""The count of graphs made while a sweep is drawn."""

import torch

from ipa_cli.backends.cuda_graph import CudaGraphs
from ipa_cli.engine.ready import Ready
from ipa_cli.sweep.draw import graphs_made


def test_a_captured_graph_counts_once_for_all_sizes_it_serves():
    denoiser = CudaGraphs.__new__(CudaGraphs)  # capturing needs a GPU, counting does not
    denoiser.captures = 0
    ready = Ready(denoiser, "eager", "uncompiled", "")
    graphs = {(64, 64): ready, (64, 96): ready}
    before = graphs_made(graphs)
    denoiser.captures += 1
    assert graphs_made(graphs) == before + 1


def test_every_compilation_of_a_function_counts():
    torch._dynamo.reset()
    before = graphs_made({})
    square = torch.compile(lambda value: value * value, backend="eager", dynamic=False)
    square(torch.ones(2))
    square(torch.ones(3))  # another shape: compiled again
    square(torch.ones(3))
    assert graphs_made({}) == before + 2
