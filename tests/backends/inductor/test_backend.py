"""The compiled backend, by the graph that all tests share, dynamic in size."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ipa_cli import backends
from ipa_cli.backends import eager
from ipa_cli.backends.inductor import backend, compilation
from ipa_cli.cache import manifest
from ipa_cli.errors import IpaError
from ipa_cli.unet.attention import layers, project
from tests.compiled import SPAN
from tests.unets import FLAT, difference, embeddings, example, moved, tiny, unet_inputs

pytestmark = pytest.mark.skipif(backends.problem("inductor") is not None, reason="needs a newer torch")

TOLERANCE = 1e-4
OPTIONS = {"dynamic": list(SPAN)}


@pytest.fixture(scope="module")
def graph(compiled):
    """UNet, adapters, and the folder of a graph for them."""
    return *tiny(), Path(compiled.graph["path"])


@pytest.fixture(scope="module")
def denoisers(graph):
    """The compiled UNet and the plain one, with the same weights."""
    unet, _, folder = graph
    return backend.load(unet, folder, backend.options(OPTIONS)), eager.load(unet, None, eager.options(None))


def test_artifact_is_plain_files_without_weights(graph):
    folder = graph[2]
    names = sorted(path.name for path in folder.iterdir())
    assert "graph.json" in names and all(path.is_file() for path in folder.iterdir())
    regions = json.loads((folder / "graph.json").read_text())["regions"]
    packages = (f"{region['name']}.pt2" for region in regions)
    assert sorted([*packages, "graph.json", manifest.MANIFEST, manifest.SIGNATURE, manifest.USES]) == names
    # 8 residual blocks, 4 transformers of 2 blocks, an entry and an exit each, the time, one larger, the last
    assert len({name for region in regions for name in region["parts"]}) == 27


def test_scale_follows_in_one_graph(graph, denoisers):
    unet, adapters, _ = graph
    ours, plain = denoisers
    inputs = example(unet, adapters)
    count = len(layers(unet))
    style = torch.zeros(1, count)
    style[0, 2] = 1
    outputs = []
    for scale in [torch.full((1, count), value) for value in (0.0, 0.25, 0.5, 1.0)] + [style]:
        given = replace(inputs, context=inputs.context._replace(scale=scale))
        outputs.append(ours(given))
        assert difference(outputs[-1], plain(given)) < TOLERANCE
    for number, output in enumerate(outputs):
        assert all(difference(output, other) > 20 * TOLERANCE for other in outputs[:number])


@pytest.mark.parametrize("size", [(16, 16), (16, 24), (12, 20), (9, 15), (32, 8)])
def test_size_follows_in_one_graph(graph, denoisers, size):
    unet, adapters, _ = graph
    ours, plain = denoisers
    inputs = example(unet, adapters, *size)
    assert difference(ours(inputs), plain(inputs)) < TOLERANCE


def test_prompt_follows(graph, denoisers):
    unet, adapters, _ = graph
    ours, plain = denoisers
    text, images = embeddings(unet, seed=7)
    inputs = unet_inputs(project(unet, adapters, text, images), seed=8)
    assert difference(ours(inputs), plain(inputs)) < TOLERANCE
    assert difference(ours(inputs), ours(example(unet, adapters))) > 20 * TOLERANCE


def test_unet_stays_as_it_was(graph, denoisers):
    unet, adapters, _ = graph
    inputs = example(unet, adapters)
    denoisers[0](inputs)
    assert not any("forward" in vars(module) for module in unet.modules())


def test_weights_are_read_where_they_are(graph):
    _, _, folder = graph
    unet, adapters = tiny(seed=3)  # other weights than those at compile time
    ours = backend.load(unet, folder, backend.options(OPTIONS))
    inputs = example(unet, adapters)
    before = ours(inputs)
    with torch.no_grad():
        assert difference(before, unet(inputs)) < TOLERANCE
        block = unet.mid_block.attentions[0].transformer_blocks[0]
        block.ff.net[2].weight.mul_(3)  # in place
        unet.mid_block.resnets[0].conv1.weight = torch.nn.Parameter(  # replaced, in another memory layout
            unet.mid_block.resnets[0].conv1.weight.detach().contiguous() * 2
        )
        after = ours(inputs)
        assert difference(after, unet(inputs)) < TOLERANCE
    assert difference(after, before) > 20 * TOLERANCE


FRESH = """
import sys
import torch
from ipa_cli.backends.inductor import backend
from tests.unets import example, tiny
unet, adapters = tiny()
inputs = example(unet, adapters)
ours = backend.load(unet, __import__("pathlib").Path(sys.argv[1]), backend.options({"dynamic": [64, 256]}))
torch.save(ours(inputs), sys.argv[2])
assert "torch._inductor.compile_fx" not in sys.modules and "torch._inductor.codecache" not in sys.modules
"""


def test_fresh_process_opens_it_without_a_compiler(graph, denoisers, tmp_path):
    unet, adapters, folder = graph
    cache = tmp_path / "cache"
    cache.mkdir()
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "HOME": str(tmp_path / "home"),
        "CXX": "/bin/false",
        "CC": "/bin/false",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path]),
    }
    output = tmp_path / "output.pt"
    subprocess.run([sys.executable, "-c", FRESH, str(folder), str(output)], env=environment, check=True)
    assert list(cache.iterdir()) == []
    assert torch.equal(torch.load(output, weights_only=True), denoisers[0](example(unet, adapters)))


def test_other_sizes_are_refused(graph, tmp_path):
    unet, adapters, folder = graph
    ours = backend.load(unet, folder, backend.options(OPTIONS))
    with pytest.raises(IpaError, match="64 to 256 pixels a side, not 264x128"):
        ours(example(unet, adapters, 16, 33))
    fixed = shutil.copytree(folder, tmp_path / "fixed")
    plan = json.loads((fixed / "graph.json").read_text())
    (fixed / "graph.json").write_text(json.dumps({**plan, "dynamic": None}))
    ours = backend.load(unet, fixed, backend.options(None))
    with pytest.raises(IpaError, match="128x128, not 192x128") as failure:
        ours(example(unet, adapters, 16, 24))
    assert "ipa compile --size 192x128" in failure.value.hint


def test_other_numbers_of_tokens_never_reach_native_code(graph, denoisers):
    unet, adapters, _ = graph
    text, images = embeddings(unet, images=2)
    with pytest.raises(ValueError, match="was compiled for"):
        denoisers[0](unet_inputs(project(unet, adapters, text, images)))


def test_weights_of_another_kind_are_refused(graph):
    _, _, folder = graph
    unet, _ = tiny()
    with pytest.raises(IpaError, match="float64"):
        backend.load(unet.double(), folder, backend.options(OPTIONS))


def test_truncated_package_is_a_foreseen_failure(graph, tmp_path):
    unet, _, folder = graph
    broken = shutil.copytree(folder, tmp_path / "broken")
    package = next(broken.glob("*.pt2"))
    package.write_bytes(package.read_bytes()[:1000])
    with pytest.raises(IpaError, match="does not open") as failure:
        backend.load(unet, broken, backend.options(OPTIONS))
    assert "ipa compile" in failure.value.hint


@pytest.mark.slow
def test_missing_compiler_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/bin/false")
    unet, adapters = tiny()
    with pytest.raises(IpaError, match="no working C\\+\\+ compiler") as failure:
        backend.compile(unet, example(unet, adapters), tmp_path, backend.options(None), lambda _: None)
    assert "g++" in failure.value.hint


@pytest.mark.slow
def test_an_example_outside_of_the_range_is_told_before_the_work(tmp_path):
    unet, adapters = tiny()
    options = backend.options({"dynamic": [512, 1536]})
    with pytest.raises(IpaError, match="512 to 1536 pixels a side, not 128x128"):
        backend.compile(unet, example(unet, adapters), tmp_path, options, lambda _: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_broken_compiler_is_found_while_compiling(tmp_path, monkeypatch):
    compiler = tmp_path / "g++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec /usr/bin/g++ --version\necho out of order >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(compilation, "_worker_count", lambda unet: 1)
    folder = tmp_path / "graph"
    folder.mkdir()
    unet, adapters = tiny(changes=FLAT)
    said = []
    with pytest.raises(IpaError, match=r"compiling \S+ failed twice: out of order") as failure:
        backend.compile(unet, example(unet, adapters), folder, backend.options(None), said.append)
    assert said[0] == "looking at the UNet's parts"
    assert len(said) == 8 and all(line.startswith("tracing ") for line in said[1:])
    assert failure.value.hint
    assert list(folder.iterdir()) == []


def test_versions_name_the_code():
    versions = backend.versions()
    assert {"torch", "triton", "diffusers", "cpu"} <= versions.keys()
    assert versions["torch"].startswith(torch.__version__.split("+")[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dynamic", [None, [64, 256]])
def test_gpu_replays_one_graph_for_every_scale(tmp_path, dynamic):
    unet, adapters = tiny()
    inputs = [moved(example(unet, adapters, *size), torch.float16) for size in ((16, 16), (12, 20))]
    unet.to("cuda", torch.float16)
    options = backend.options({"dynamic": dynamic})
    backend.compile(unet, inputs[0], tmp_path, options, lambda _: None)
    ours = backend.load(unet, tmp_path, options)
    plain = eager.load(unet, None, eager.options({"cuda_graph": False}))
    for given in inputs if dynamic else inputs[:1]:
        outputs = []
        for scale in (0.0, 0.25, 1.0):
            scaled = replace(given, context=given.context._replace(scale=given.context.scale * scale))
            outputs.append(ours(scaled))
            assert difference(outputs[-1], plain(scaled)) < 3e-3
        assert difference(outputs[0], outputs[1]) > 6e-2 and difference(outputs[1], outputs[2]) > 6e-2
    assert ours.captures == (2 if dynamic else 1)
