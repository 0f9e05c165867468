"""Our Triton kernels against plain PyTorch in fp32, on odd scales; on a CPU by Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton")

# In a process of its own, because Triton reads TRITON_INTERPRET when it is imported.
SCRIPT = """
import ctypes
import sys
import torch
from ipa_cli.backends.inductor import norms
from ipa_cli.backends.inductor.fp8 import BlockwiseFp8Linear, BlockwiseStates
from ipa_cli.backends.inductor.fp8 import quantize_blockwise, quantize_rowwise, supports_blockwise
from ipa_cli.backends.inductor.decoder_blocks import FusedDecoder
from ipa_cli.backends.inductor.kernels import attention, convolution, decoder_norm, feed_forward, layer_norm
from ipa_cli.models.vae import channels_last
from ipa_cli.networks.autoencoder import AutoencoderKL
from torch.nn import functional as F

device = sys.argv[1]
dtype, tolerance = (torch.float16, 2e-3) if device == "cuda" else (torch.float32, 1e-5)
torch.manual_seed(0)


def normal(*shape):
    return torch.randn(shape, device=device, dtype=dtype)


def check(got, expected):
    error = ((got.double() - expected.double()).norm() / expected.double().norm()).item()
    assert error < tolerance, error


def check_fp8(got, expected, least):
    if device == "cuda":  # half a step between values of three bits
        error = (got - expected).abs() / expected.abs().clamp(min=least)
        assert error.max() < 0.0635, error.max()
    else:  # the interpreter gives half of what should be rounded up to a power of two
        assert (got - expected).norm() < 0.2 * expected.norm()


for batch, pixels, heads, depth, text, image, rows, block in [
    (2, 100, 3, 16, 77, 4, 32, 16), (1, 65, 2, 64, 77, 16, 64, 128), (2, 33, 2, 32, 154, 20, 16, 64)
]:
    given = normal(batch, pixels, heads * depth), *(normal(2, batch, heads, tokens, depth) for tokens in (text, image))
    scale = torch.tensor([0.37, 9.0], device=device)  # its first number counts
    for any_text in (False, True):
        got = attention.cross_attention(*given, scale, rows=rows, text_block=block, any_text=any_text)
        check(got, attention.plain_cross_attention(*(tensor.float() for tensor in given), scale))
for rows, width in [(3, 256), (50, 1280), (17, 5120)]:
    both = normal(rows, 2 * width)
    values, scale = feed_forward.gate_quantize(both)
    plain = feed_forward.plain_gate(both.float())
    assert torch.allclose(scale, plain.abs().amax(-1, keepdim=True) / 448, rtol=1e-3)
    check_fp8(values.float() * scale, plain, scale / 64)
for count, rows, width, biased, tile in [
    (1, 3, 128, True, (1, 1)), (2, 50, 640, False, (8, 4)), (3, 17, 1280, True, (4, 4))
]:
    addends = [normal(rows, width) for _ in range(count)]
    weight, shift, bias = normal(width) + 1, normal(width), 3 * normal(width) if biased else None
    values, scale, total = layer_norm.norm_quantize(addends, weight, shift, bias, 1e-5, *tile)
    given = [x.float() for x in addends], weight.float(), shift.float(), None if bias is None else bias.float()
    plain, plain_total = layer_norm.plain_norm_quantize(*given, 1e-5)
    check(total, plain_total)
    assert torch.allclose(scale, plain.abs().amax(-1, keepdim=True) / 448, rtol=1e-3)
    check_fp8(values.float() * scale, plain, scale / 64)
for batch, height, wide, widths in [(2, 9, 13, (48,)), (1, 16, 33, (64, 32)), (3, 3, 1, (320, 320))]:
    pictures = [normal(batch, height, wide, width) for width in widths]
    scale, shift = (torch.randn(batch, sum(widths), device=device) for _ in range(2))
    got = convolution.silu_im2col(pictures, scale, shift).float()
    plain = convolution.plain_silu_im2col([picture.float() for picture in pictures], scale, shift)
    assert (got[plain == 0].abs() <= 2**-9).all()  # the smallest number of fp8, where rounding decides otherwise
    check_fp8(got, plain, 1 / 64)
for rows, width, depth in [(50, 40, 64), (33, 24, 192), (300, 128, 128)]:
    given = normal(rows, depth), normal(2 * width, depth) * depth**-0.5, 3 * normal(2 * width)
    for tile in [(64, 64, 32, 2, 4, 3), (128, 64, 64, 8, 8, 3)]:
        check(feed_forward.geglu(*given, *tile, False), feed_forward.plain_geglu(*(x.float() for x in given)))
for doubled, wide in [(False, 9), (True, 5)]:
    channels = 32
    states = normal(2, 3, wide, 4 * channels if doubled else channels) + 3
    plain = (decoder_norm.subpixel_place(states) if doubled else states).float()
    other, bias, weight, offset = normal(*plain.shape), 5 * normal(channels), normal(channels), normal(channels)
    height, width = plain.shape[1:3]
    moments = decoder_norm.moments(states, doubled)
    factors = decoder_norm.scale_shift(moments, width, bias, weight, offset, 8, 1e-6)
    norm = F.group_norm((plain + bias).permute(0, 3, 1, 2), 8, weight.float(), offset.float(), 1e-6).permute(0, 2, 3, 1)
    for silu in (False, True):
        check(decoder_norm.normed(states, factors, doubled, silu), F.silu(norm) if silu else norm)
    total, moments = decoder_norm.add_moments(other, states, bias, doubled)
    check(total, plain + other + bias)
    check(moments, torch.stack([total.float().mean(2), total.float().var(2, correction=0) * width]))
    factors = decoder_norm.scale_shift(moments, width, None, weight, offset, 8, 1e-6)
    norm = F.group_norm(total.float().permute(0, 3, 1, 2), 8, weight.float(), offset.float(), 1e-6)
    weight, bias = normal(3, channels, 3, 3), normal(3)
    got = decoder_norm.output_convolution(total, factors, weight, bias)
    check(got, F.conv2d(F.silu(norm), weight.float(), bias.float(), padding=1))
# Pictures of which the second begins 2^31 numbers behind the first; what lies between is not touched.
height, width, channels = 2**15, 2**11, 32
memory = []


def far(numbers):
    # Integers of a byte, and where they begin: of a kernel's argument the interpreter copies all that it holds.
    memory.append(torch.empty(numbers, device=device, dtype=torch.int8))
    start = ctypes.c_int8.from_address(memory[-1].data_ptr())
    return memory[-1], memory[-1] if device == "cuda" else torch.frombuffer(start, dtype=torch.int8)


def small(*shape):
    return torch.randint(-9, 9, shape, device=device, dtype=torch.int8)


(first, given), (second, made) = far(2**31 + 2**24), far(2**31 + 2**24)
for doubled in (False, True):
    size, line = height * width * channels, small(1, 1, width, channels)
    if doubled:
        size, line = (height // 2 + 1) * (width // 2 + 1) * 4 * channels, small(1, 2, width // 2 + 1, 4 * channels)
    first[size : size + line.numel()] = line.flatten()
    plain = (decoder_norm.subpixel_place(line) if doubled else line)[0, 0].float()
    moments = torch.zeros(2, 2, height, channels, device=device)
    factors = torch.ones(2, 2, channels, device=device)
    decoder_norm.moments_kernel[(1, 1, 2)](
        given, given, given, given, moments, height, width, channels, channels, 32, doubled, False, 1
    )
    check(moments[:, 1, 0], torch.stack([plain.mean(0), plain.var(0, correction=0) * width]))
    own = second[height * width * channels :][: width * channels].view(width, channels)
    decoder_norm.normed_kernel[(1, 1, 2)](given, factors, made, height, width, channels, channels, 64, doubled, False)
    assert torch.equal(own[:64], plain[:64].to(torch.int8) + 1)
    own[:] = small(width, channels)
    total = own.float() + plain + 2
    bias = torch.full((channels,), 2, device=device, dtype=dtype)
    decoder_norm.moments_kernel[(1, 1, 2)](
        made, given, bias, made, moments, height, width, channels, channels, 32, doubled, True, 1
    )
    assert torch.equal(own.float(), total)
    check(moments[:, 1, 0], torch.stack([total.mean(0), total.var(0, correction=0) * width]))
weight = small(32, channels).to(dtype) / 32
pixels, (planes, given_planes), (out, made) = height * width, far(2**32), far(6 * height * width)
decoder_norm.taps_kernel[(1, 2)](given, factors, weight, given_planes, pixels, channels, channels, 128, 32)
states = first[pixels * channels :][: 128 * channels].view(128, channels).float() + 1
own = planes.view(2, 32, pixels)[1]
assert (own[:, :128].t() - F.silu(states) @ weight.float().t()).abs().max() < 1.1  # cut to a byte
own[:27, : 2 * width] = small(27, 2 * width)
lines = F.pad(own[:27, : 2 * width].view(3, 3, 3, 2, width).float(), (1, 1))
decoder_norm.sum_of_taps_kernel[(1, 1, 6)](given_planes, bias, made, height, width, 3, 32, 1024)
total = sum(lines[row, tap, :, row - 1, tap : tap + 1024] for row in (1, 2) for tap in range(3)) + 2
assert torch.equal(out.view(2, 3, pixels)[1, :, :1024].float(), total)
memory.clear()
blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
vae = AutoencoderKL({"block_out_channels": [16, 32], "norm_num_groups": 4, **blocks}).requires_grad_(False).to(device)
latents = normal(2, 4, 3, 4)
plain = vae.decode(latents.float())
channels_last.convert(vae)
check(FusedDecoder(vae.to(dtype).decoder)(vae.post_quant_conv(latents)), plain)
if device == "cuda":  # the interpreter stumbles over loops whose end it does not know
    for rows, width, depth in [(50, 40, 64), (128, 256, 128), (33, 24, 192), (3000, 1280, 320)]:
        given = normal(rows, depth), normal(2 * width, depth) * depth**-0.5, 3 * normal(2 * width)
        plain = feed_forward.plain_geglu(*(x.float() for x in given))
        check(feed_forward.geglu(*given), plain)
        check(feed_forward.geglu(*given, rows=64, width=64, depth=32, group=2, stages=2), plain)
    for rows, width, depth in [(50, 512, 64), (3000, 1024, 320), (257, 2560, 640)]:
        given = normal(rows, depth), normal(2 * width, depth) * depth**-0.5
        (states, scale), (weight, weight_scale) = (quantize_rowwise(tensor) for tensor in given)
        bias = normal(2 * width)
        values, scales = feed_forward.geglu_quantize(states, scale, weight, weight_scale.t().contiguous(), bias)
        plain = feed_forward.plain_geglu(states.float() * scale, weight.float() * weight_scale, bias.float())
        assert torch.allclose(scales.t()[:rows] * 448, plain.unflatten(1, (-1, 128)).abs().amax(-1), rtol=1e-2)
        got = (values.float() * scales.t().repeat_interleave(128, 1))[:rows]
        assert (got - plain).norm() < 0.04 * plain.norm()
        if supports_blockwise(states.device):
            layer = torch.nn.Linear(width, 256, device=device, dtype=dtype)
            last = BlockwiseFp8Linear(layer)
            last.weight, last.weight_scale = map(torch.nn.Parameter, quantize_blockwise(layer.weight), [False, False])
            got = last(BlockwiseStates(values, scales, (rows,))) + layer.bias
            error = (got - layer(plain.to(dtype))).norm() / got.norm()
            assert error < 0.05, error
    for batch, height, wide, channels, outs in [(2, 9, 13, 48, 40), (1, 64, 48, 320, 320), (3, 5, 33, 64, 136)]:
        lines = normal(batch, height + 2, wide, 3 * channels).to(torch.float8_e4m3fn)
        weight = normal(outs, 9 * channels).to(torch.float8_e4m3fn)
        given = lines, weight, (torch.rand(outs, device=device) + 0.5) / (9 * channels) ** 0.5, normal(outs)
        added = normal(batch, outs), normal(batch, height, wide, outs)
        plain = convolution.plain_conv3x3(*(x.float() for x in given))
        with_residual = convolution.plain_conv3x3(*(x.float() for x in (*given, *added)))
        for tile in [(0, 0, 0), (128, 64, 3), *(tile[:3] for tile in convolution.TILES)]:
            check(convolution.conv3x3(*given, None, None, *tile), plain)
            check(convolution.conv3x3(*given, *added, *tile), with_residual)
"""


def test_kernels_compute_what_pytorch_does():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])}
    if device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run([sys.executable, "-c", SCRIPT, device], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
