"""OneFlow, for real where it is installed (`.ci/oneflow` sees to that), with tiny UNets and the demo model."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ipa_cli import backends
from ipa_cli.backends.oneflow import backend
from ipa_cli.errors import UsageError
from tests.unets import AS_SD15, difference, example, tiny, twice

PRESENT = backends.problem("oneflow")
real = pytest.mark.skipif(PRESENT is not None, reason=PRESENT.message if PRESENT else "")

SIZE = 64
FAST = ("--width", SIZE, "--height", SIZE, "--steps", 2, "--seed", 7, "--json")
CLOSE_DB = 60.0  # OneFlow sums in another order: at most a few pixels of 256 levels differ, by one
APART_DB = 45.0


def masked(inputs):
    """The reference acts on the left half only, in layers of 8 x 8 pixels."""
    mask = torch.zeros(1, 1, 64, 1)
    mask[:, :, :32] = 1
    layers = [mask] * inputs.context.scale.shape[1]
    return replace(inputs, context=inputs.context._replace(mask=[layers for _ in inputs.context.image]))


def scaled(inputs, factors):
    return replace(inputs, context=inputs.context._replace(scale=inputs.context.scale * factors))


def opened(unet, inputs, folder: Path):
    folder.mkdir(exist_ok=True)
    backend.compile(unet, inputs, folder, backend.options(None), print)
    return backend.load(unet, folder, backend.options(None))


# --- the UNet -----------------------------------------------------------------------------------------------------


@real
@pytest.mark.parametrize(
    ("changes", "given"),
    [
        (None, lambda inputs: inputs),
        (None, masked),
        (None, twice),
        (AS_SD15, lambda inputs: inputs),
        ({"act_fn": "gelu", "resnet_time_scale_shift": "scale_shift", "downsample_padding": 0}, lambda inputs: inputs),
        ({"center_input_sample": True, "freq_shift": 1, "flip_sin_to_cos": False}, lambda inputs: inputs),
    ],
    ids=["SDXL", "masks", "a batch", "SD 1.5", "other blocks", "other inputs"],
)
@torch.no_grad()
def test_a_graph_computes_what_torch_does(tmp_path, changes, given):
    unet, adapters = tiny(2, changes=changes)
    inputs = given(example(unet, adapters))
    assert difference(opened(unet, inputs, tmp_path)(inputs), unet(inputs)) < 1e-5


@real
@torch.no_grad()
def test_scale_layers_timestep_and_weights_stay_alive_in_a_graph(tmp_path):
    unet, adapters = tiny(2)
    inputs = example(unet, adapters)
    call = opened(unet, inputs, tmp_path)
    first = call(inputs)
    rows, layers = inputs.context.scale.shape
    every_other = torch.arange(layers).remainder(2).expand(rows, layers).float()
    for other in (scaled(inputs, 0.3), scaled(inputs, every_other), replace(inputs, timestep=torch.tensor(20))):
        assert difference(call(other), unet(other)) < 1e-5
        assert difference(call(other), first) > 1e-2
    before = unet(inputs)
    unet.conv_out.bias += 1.0
    assert difference(call(inputs), before + 1.0) < 1e-5
    assert difference(first, before) < 1e-5, "the result is the caller's own"


@real
@torch.no_grad()
def test_two_graphs_are_open_at_once(tmp_path):
    made = []
    for name, size in (("one", 16), ("other", 24)):
        unet, adapters = tiny()
        inputs = example(unet, adapters, size, 16)
        made.append((unet, inputs, opened(unet, inputs, tmp_path / name)))
    for unet, inputs, call in (*made, *made):
        assert difference(call(inputs), unet(inputs)) < 1e-5


@real
def test_inputs_of_another_shape_are_refused(tmp_path):
    unet, adapters = tiny()
    call = opened(unet, example(unet, adapters), tmp_path)
    with pytest.raises(ValueError, match="the graph takes inputs of"):
        call(example(unet, adapters, 24, 16))


# --- the program --------------------------------------------------------------------------------------------------


def ipa(cache: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ipa_cli", *map(str, arguments), "--cache-dir", str(cache)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("IPA_")}
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=True, cwd=cache, timeout=600)


def generate(cache: Path, name: str, scale: float) -> tuple[dict[str, Any], np.ndarray, str]:
    path = cache / f"{name}-{scale}.png"
    ran = ipa(cache, "generate", *FAST, "--backend", name, "--scale", scale, "--output", path, "--force")
    data = json.loads(ran.stdout)["data"]
    times = {part: round(data["timings"][part], 1) for part in ("prepare_s", "graph_compile_s", "first_step_s")}
    print(f"{name} at scale {scale}: graph from {data['graph']['origin']}, {times}", file=sys.__stderr__)
    return data, np.asarray(Image.open(path), dtype=float), ran.stderr


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(((a - b) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@real
@pytest.mark.slow
def test_another_process_draws_with_the_saved_graph_at_another_scale(tmp_path):
    tmp_path.chmod(0o700)
    first, pixels, _ = generate(tmp_path, "oneflow", 1.0)
    assert first["graph"]["origin"] == "compiled"
    (job,) = tmp_path.glob("graphs-v1/oneflow/cpu/*/unet.job")
    kept = job.read_bytes()
    listed = ipa(tmp_path, "cache", "ls").stdout
    print(listed, file=sys.__stderr__)
    assert first["graph"]["id"][:8] in listed

    again, same, said = generate(tmp_path, "oneflow", 1.0)
    other, less, _ = generate(tmp_path, "oneflow", 0.0)
    assert again["graph"]["origin"] == other["graph"]["origin"] == "cache" and job.read_bytes() == kept
    assert "ibv" not in said and "CUDA" not in said
    levels = {
        "scale 1, first process against second": psnr(pixels, same),
        "scale 1 against eager": psnr(pixels, generate(tmp_path, "eager", 1.0)[1]),
        "scale 0 against eager": psnr(less, generate(tmp_path, "eager", 0.0)[1]),
        "scale 1 against scale 0": psnr(pixels, less),
    }
    print({name: f"{level:.1f} dB" for name, level in levels.items()}, file=sys.__stderr__)
    assert levels.pop("scale 1 against scale 0") < APART_DB
    assert min(levels.values()) > CLOSE_DB


# --- anywhere -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"dynamic": [512, 1024]}, {"options": {}}, "onediff", "{"])
def test_there_are_no_options(given):
    assert backend.options(None) == {}
    with pytest.raises(UsageError):
        backend.options(given)


@pytest.mark.parametrize("flags", [("--device", "cuda"), ("--dtype", "float16"), ("--dtype", "bfloat16")])
def test_another_device_or_dtype_is_refused(flags):
    from types import SimpleNamespace

    from ipa_cli.config import Settings
    from ipa_cli.engine.backend_choice import check_capabilities

    asked = dict([flags])
    device = SimpleNamespace(type=asked.get("--device", "cpu"))
    settings = Settings(backend="oneflow", dtype=asked.get("--dtype", "float32"))
    with pytest.raises(UsageError, match=f"the backend oneflow does not .* {flags[1]}"):
        check_capabilities(settings, device, "none")
