"""The uncompiled backend, and its CUDA graph where there is a GPU."""

from dataclasses import replace

import pytest
import torch

from ipa_cli.backends import cuda_graph, eager
from ipa_cli.unet.attention import project
from tests.unets import difference, embeddings, example, moved, tiny


def test_cpu_calls_the_unet_itself():
    unet, adapters = tiny()
    inputs = example(unet, adapters)
    with torch.no_grad():
        expected = unet(inputs)
    output = eager.load(unet, None, eager.options(None))(inputs)
    assert torch.equal(output, expected)
    assert not output.requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_graph_is_bit_equal_and_follows_every_input():
    unet, adapters = tiny()
    first, other_size = (moved(example(unet, adapters, *size), torch.float32) for size in ((16, 16), (24, 16)))
    unet.to("cuda")
    adapters.to("cuda")
    plain = eager.load(unet, None, eager.options({"cuda_graph": False}))
    graph = eager.load(unet, None, eager.options(None))

    text, images = embeddings(unet)
    other = project(unet, adapters, text.cuda() + 1, [image.cuda() - 1 for image in images])
    changes = [
        first,
        replace(first, timestep=first.timestep / 2),
        replace(first, sample=first.sample * 2),
        replace(first, added=replace(first.added, text_embeds=first.added.text_embeds * 2)),
        replace(first, added=replace(first.added, time_ids=first.added.time_ids * 2)),
        replace(first, context=first.context._replace(scale=first.context.scale * 0.3)),
        replace(first, context=other),
        other_size,
        first,
    ]
    outputs = [graph(inputs) for inputs in changes]
    for number, (inputs, output) in enumerate(zip(changes, outputs, strict=True)):
        assert torch.equal(output, plain(inputs)), f"change {number}"
    assert all(difference(output, outputs[0]) > 1e-4 for output in outputs[1:7])

    first.context.text[0].mul_(0.5)  # not allowed, and noticed all the same
    assert torch.equal(graph(first), plain(first))
    unet.conv_out.weight.mul_(2)
    assert torch.equal(graph(first), plain(first))


@pytest.mark.gpu
def test_cuda_graphs_of_many_shapes_keep_memory_flat():
    unet, adapters = tiny()
    shapes = [(side, 8 * (1 + side % 3)) for side in range(8, 8 + 3 * cuda_graph.MOST, 2)]
    inputs = [moved(example(unet, adapters, *shape), torch.float32) for shape in shapes]
    unet.to("cuda")
    plain = eager.load(unet, None, eager.options({"cuda_graph": False}))
    graph = eager.load(unet, None, eager.options(None))
    held = []
    for _ in range(3):
        for one in inputs:
            assert torch.equal(graph(one), plain(one))
        held.append(torch.cuda.memory_reserved())
    assert len(graph._graphs) == cuda_graph.MOST and graph.captures == 3 * len(inputs)
    assert held[2] <= held[1]
