"""Image projections of adapters against diffusers': the same tokens to the bit."""

import pytest
import torch
from torch import randn

from ipa_cli.networks.image_projection import of_file
from tests.unets import diffusers_unet


def linear(name, out, given):
    return {f"{name}.weight": randn(out, given) / 10, f"{name}.bias": randn(out)}


def norm(name, width):
    return {f"{name}.weight": randn(width), f"{name}.bias": randn(width)}


def base():
    return {**linear("proj", 4 * 48, 40), **norm("norm", 48)}, randn(2, 40)


def full():
    return {**linear("proj.0", 40, 40), **linear("proj.2", 48, 40), **norm("proj.3", 48)}, randn(2, 9, 40)


def plus():
    width, inner = 96, 128
    found = {"latents": randn(1, 6, width), **linear("proj_in", width, 40), **linear("proj_out", 48, width)}
    found |= norm("norm_out", 48)
    for layer in (f"layers.{number}" for number in range(4)):
        found |= {**norm(f"{layer}.0.norm1", width), **norm(f"{layer}.0.norm2", width), **norm(f"{layer}.1.0", width)}
        sizes = {"0.to_q": (inner, width), "0.to_kv": (2 * inner, width), "0.to_out": (width, inner)}
        sizes |= {"1.1": (4 * width, width), "1.3": (width, 4 * width)}
        found |= {f"{layer}.{name}.weight": randn(size) / 10 for name, size in sizes.items()}
    return found, randn(2, 9, 40)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [base, full, plus])
def test_tokens_are_those_of_diffusers_to_the_bit(make, dtype):
    torch.manual_seed(0)
    tensors, embeds = make()
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    theirs = diffusers_unet().to(dtype)._convert_ip_adapter_image_proj_to_diffusers(dict(tensors)).eval()
    with torch.no_grad():
        assert torch.equal(of_file(tensors)(embeds.to(dtype)), theirs(embeds.to(dtype)))
