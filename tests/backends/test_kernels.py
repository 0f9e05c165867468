"""Our Triton kernels against plain PyTorch in fp32, on odd sizes; on a CPU by Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton")

# In a process of its own, because Triton reads TRITON_INTERPRET when it is imported.
SCRIPT = """
import sys
import torch
from ipa_cli.backends import gates, kernels
from ipa_cli.backends.eight_bit import BlockLinear, Blocks, multiplies_blocks, quantised, quantised_by_squares

device = sys.argv[1]
dtype, tolerance = (torch.float16, 2e-3) if device == "cuda" else (torch.float32, 1e-5)
torch.manual_seed(0)


def normal(*shape):
    return torch.randn(shape, device=device, dtype=dtype)


def check(got, expected):
    error = ((got.double() - expected.double()).norm() / expected.double().norm()).item()
    assert error < tolerance, error


for batch, pixels, heads, depth, text, image, rows, block in [
    (2, 100, 3, 16, 77, 4, 32, 16), (1, 65, 2, 64, 77, 16, 64, 128), (2, 33, 2, 32, 154, 20, 16, 64)
]:
    given = normal(batch, pixels, heads * depth), *(normal(2, batch, heads, tokens, depth) for tokens in (text, image))
    scale = torch.tensor([0.37, 9.0], device=device)  # its first number counts
    got = kernels.cross_attention(*given, scale, rows=rows, text_block=block)
    check(got, kernels.plain_cross_attention(*(tensor.float() for tensor in given), scale))
for rows, width in [(3, 256), (50, 1280), (17, 5120)]:
    both = normal(rows, 2 * width)
    numbers, size = gates.gated_rows(both)
    plain = gates.plain_gated(both.float())
    assert torch.allclose(size, plain.abs().amax(-1, keepdim=True) / 448, rtol=1e-3)
    if device == "cuda":  # half a step between numbers of three bits
        error = (numbers.float() * size - plain).abs() / plain.abs().clamp(min=size / 64)
        assert error.max() < 0.0635, error.max()
    else:  # the interpreter rounds small numbers otherwise
        assert (numbers.float() * size - plain).norm() < 0.1 * plain.norm()
if device == "cuda":  # the interpreter stumbles over loops whose end it does not know
    for rows, width, depth in [(50, 40, 64), (128, 256, 128), (33, 24, 192), (3000, 1280, 320)]:
        given = normal(rows, depth), normal(2 * width, depth) * depth**-0.5, 3 * normal(2 * width)
        plain = gates.plain_geglu(*(x.float() for x in given))
        check(gates.geglu(*given), plain)
        check(gates.geglu(*given, rows=64, width=64, depth=32, group=2, stages=2), plain)
    for rows, width, depth in [(50, 512, 64), (3000, 1024, 320), (257, 2560, 640)]:
        given = normal(rows, depth), normal(2 * width, depth) * depth**-0.5
        (states, size), (weight, weight_size) = (quantised(tensor) for tensor in given)
        bias = normal(2 * width)
        numbers, sizes = gates.geglu_blocks(states, size, weight, weight_size.t().contiguous(), bias)
        plain = gates.plain_geglu(states.float() * size, weight.float() * weight_size, bias.float())
        assert torch.allclose(sizes.t()[:rows] * 448, plain.unflatten(1, (-1, 128)).abs().amax(-1), rtol=1e-2)
        got = (numbers.float() * sizes.t().repeat_interleave(128, 1))[:rows]
        assert (got - plain).norm() < 0.04 * plain.norm()
        if multiplies_blocks(states.device):
            layer = torch.nn.Linear(width, 256, device=device, dtype=dtype)
            last = BlockLinear(layer)
            last.weight, last.size = map(torch.nn.Parameter, quantised_by_squares(layer.weight), [False, False])
            got = last(Blocks(numbers, sizes, (rows,)))
            error = (got - layer(plain.to(dtype))).norm() / got.norm()
            assert error < 0.05, error
    for batch, pixels, heads, depth, rows, block in [(2, 64, 3, 16, 32, 16), (1, 100, 2, 64, 64, 32)]:
        joined = normal(batch, pixels, 3 * heads * depth)
        got = kernels.self_attention(joined, heads, rows=rows, block=block)
        check(got, kernels.plain_self_attention(joined.float(), heads))
"""


def test_kernels_compute_what_pytorch_does():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    if device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run([sys.executable, "-c", SCRIPT, device], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
