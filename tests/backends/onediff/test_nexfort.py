"""nexfort through onediff, for real where it is installed (`.ci/nexfort` sees to that), with the demo model on the CPU.

Compiling takes minutes, so one graph serves the module: it is made by the first process and read by all others.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa_cli import backends
from ipa_cli.backends.onediff import nexfort
from ipa_cli.errors import UsageError

pytestmark = pytest.mark.slow

PRESENT = backends.problem("nexfort")
real = pytest.mark.skipif(PRESENT is not None, reason=PRESENT.message if PRESENT else "")
slow = pytest.mark.timeout(2400)

SIZE = 64
FAST = ("--width", SIZE, "--height", SIZE, "--steps", 2, "--seed", 7, "--json")
# nexfort's "low-precision" reorders sums: 3e-5 of the UNet's output was seen on a CPU in fp32, and pictures are rounded
# to 256 levels, so at most a few pixels may differ, by one level.
CLOSE_DB = 55.0
APART_DB = 45.0


@dataclass(frozen=True)
class Drawn:
    data: dict[str, Any]
    pixels: np.ndarray
    stderr: str
    seconds: float


@dataclass(frozen=True)
class Graph:
    """The graph in its store, and the first process' picture at scale 1."""

    cache: Path
    folder: Path
    first: Drawn


def ipa(cache: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ipa_cli", *map(str, arguments), "--cache-dir", str(cache)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("IPA_")}
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=True, cwd=cache)


def generate(cache: Path, backend: str, scale: float) -> Drawn:
    began = time.monotonic()
    path = cache / f"{backend}-{scale}.png"
    ran = ipa(cache, "generate", *FAST, "--backend", backend, "--scale", scale, "--output", path, "--force")
    seconds = time.monotonic() - began
    data = json.loads(ran.stdout)["data"]
    times = {name: round(data["timings"][name], 2) for name in ("prepare_s", "graph_compile_s", "first_step_s")}
    print(
        f"{backend} at scale {scale}: {data['graph']['origin']}, {times}, process {seconds:.1f} s", file=sys.__stderr__
    )
    return Drawn(data, np.asarray(Image.open(path), dtype=float), ran.stderr, seconds)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(((a - b) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    cache = tmp_path_factory.mktemp("nexfort")
    cache.chmod(0o700)
    first = generate(cache, "nexfort", 1.0)
    (manifest,) = cache.glob("graphs-v1/nexfort/cpu/*/manifest.json")
    return Graph(cache, manifest.parent, first)


# --- for real ---------------------------------------------------------------------------------------------------


@real
@slow
def test_the_first_process_compiles_and_keeps_all_caches_in_the_stores_entry(graph):
    assert graph.first.data["graph"]["origin"] == "compiled"
    kept = {path.relative_to(graph.folder).as_posix() for path in graph.folder.rglob("*") if path.is_file()}
    assert {"manifest.json", ".uses"} < kept
    assert any(name.startswith("cache/fxgraph/") for name in kept), "the finished graph"
    assert any(name.endswith(".so") for name in kept), "the compiled kernels"
    assert not any("lock" in name for name in kept)
    rows = json.loads(ipa(graph.cache, "cache", "ls", "--json").stdout)["data"]
    assert graph.first.data["graph"]["id"] in json.dumps(rows)


@real
@slow
def test_another_process_reuses_the_graph_and_leaves_it_as_it_was(graph):
    again = generate(graph.cache, "nexfort", 1.0)
    assert again.data["graph"] == {**graph.first.data["graph"], "origin": "cache", "why": again.data["graph"]["why"]}
    assert "compiled it again" not in again.stderr
    assert np.array_equal(again.pixels, graph.first.pixels)
    assert again.data["timings"]["graph_compile_s"] == 0
    ipa(graph.cache, "cache", "verify", "--json")  # every digest; fails by exit status


@real
@slow
def test_pictures_follow_the_scale_and_equal_eagers(graph):
    nexfort_off, eager_on, eager_off = (
        generate(graph.cache, backend, scale) for backend, scale in (("nexfort", 0.0), ("eager", 1.0), ("eager", 0.0))
    )
    assert nexfort_off.data["graph"]["origin"] == "cache" and "compiled it again" not in nexfort_off.stderr
    levels = {
        "scale 1 against eager": psnr(graph.first.pixels, eager_on.pixels),
        "scale 0 against eager": psnr(nexfort_off.pixels, eager_off.pixels),
        "scale 1 against scale 0": psnr(graph.first.pixels, nexfort_off.pixels),
    }
    print({name: f"{level:.1f} dB" for name, level in levels.items()}, file=sys.__stderr__)
    assert levels["scale 1 against eager"] > CLOSE_DB
    assert levels["scale 0 against eager"] > CLOSE_DB
    assert levels["scale 1 against scale 0"] < APART_DB


@real
@slow
def test_the_unet_follows_scales_and_weights_without_compiling(graph, monkeypatch):
    import torch
    from torch._dynamo.utils import counters

    from ipa_cli.config import Settings
    from ipa_cli.engine.engine import Engine
    from ipa_cli.models.plan import make_plan
    from ipa_cli.pipeline import task
    from ipa_cli.pipeline.references import load_references
    from ipa_cli.result import NullReporter
    from tests.unets import difference

    settings = Settings(width=SIZE, height=SIZE, seed=7, scale=1.0, device="cpu", cache_dir=graph.cache)
    plan = make_plan(settings)
    engine = Engine.open(settings, plan, NullReporter())
    example = engine.example_inputs(task.make_request(settings, plan, load_references(settings, NullReporter())))
    unet = engine.model.unet
    denoiser = nexfort.load(unet, graph.folder, nexfort.options(None))
    whole = unet(example).detach()
    for scale in (1.0, 0.0, 0.5):
        context = example.context._replace(scale=torch.full_like(example.context.scale, scale))
        inputs = replace(example, context=context)
        expected = unet(inputs).detach()
        assert difference(denoiser(inputs), expected) < 3e-4
        assert scale == 1.0 or difference(expected, whole) > 1e-2, "the scale should matter, or nothing is shown"
    one, other = denoiser(example), denoiser(replace(example, timestep=torch.tensor(20)))
    assert one.data_ptr() != other.data_ptr() and difference(one, whole) < 3e-4, "each result is the caller's own"
    with torch.no_grad():
        unet.conv_out.bias += 1.0
    assert difference(denoiser(example), whole + 1.0) < 3e-4
    assert counters["inductor"]["fxgraph_cache_hit"] == 1 and counters["inductor"]["fxgraph_cache_miss"] == 0
    assert counters["stats"]["unique_graphs"] == 1


@real
def test_options_that_nexfort_does_not_know_are_refused_before_the_work(tmp_path):
    for given in ({"options": {"inductor.no_such": 1}}, {"mode": "sideways"}):
        with pytest.raises(UsageError, match="nexfort does not take"):
            nexfort.compile(None, None, tmp_path, nexfort.options(given), print)  # type: ignore[arg-type]


# --- anywhere -----------------------------------------------------------------------------------------------------


def test_the_default_options_are_those_of_onediffs_example():
    chosen = nexfort.options(None)
    assert chosen["mode"] == "cudagraphs:benchmark:max-autotune:low-precision:cache-all"
    assert chosen["memory_format"] == "channels_last"
    assert chosen["options"] == {
        "inductor.optimize_linear_epilogue": False,
        "overrides.conv_benchmark": True,
        "overrides.matmul_allow_tf32": True,
    }


def test_json_passes_through_and_the_code_is_always_kept():
    chosen = nexfort.options('{"mode": "O3", "options": {"triton.enable_fast_math": false}, "dynamic": [256, 1024]}')
    assert chosen["mode"] == "O3:cache-all"
    assert chosen["options"] == {"triton.enable_fast_math": False}
    assert nexfort.options({"mode": ""})["mode"] == "cache-all"
    given = nexfort._arguments(chosen)
    assert given == {"mode": "O3:cache-all", "options": {"triton.enable_fast_math": False}, "dynamic": True}
    given["options"].clear()
    assert chosen["options"], "onediff gets a copy"


@pytest.mark.parametrize(
    "given",
    [
        {"memory_format": "diagonal"},
        {"dynamic": True},
        {"dynamic": [512, 256]},
        {"mode": 3},
        {"no_such": 1},
        "no-such-preset",
        "{",
    ],
)
def test_impossible_options_are_usage_errors(given):
    with pytest.raises(UsageError):
        nexfort.options(given)
