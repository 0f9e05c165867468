"""Image projections of adapters against diffusers': the same tokens to the bit."""

import pytest
import torch
from torch import randn

from ipa_cli.networks.image_projection import FacePictures, of_file, tokens
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


def face():
    return {**linear("proj.0", 64, 32), **linear("proj.2", 4 * 48, 64), **norm("norm", 48)}, randn(2, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [base, full, plus, face])
def test_tokens_are_those_of_diffusers_to_the_bit(make, dtype):
    torch.manual_seed(0)
    tensors, embeds = make()
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    theirs = diffusers_unet().to(dtype)._convert_ip_adapter_image_proj_to_diffusers(dict(tensors)).eval()
    with torch.no_grad():
        assert torch.equal(of_file(tensors)(embeds.to(dtype)), theirs(embeds.to(dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shortcut", [None, 1.0, 0.3])
def test_tokens_of_faces_and_their_pictures_are_those_of_diffusers_to_the_bit(shortcut, dtype):
    torch.manual_seed(0)
    width = 64
    found = {**linear("proj.0", 64, 32), **linear("proj.2", 4 * width, 64), **norm("norm", width)}
    resampler = {name: tensor for name, tensor in plus()[0].items() if name.startswith("layers.")}
    for name, tensor in resampler.items():
        shape = [{96: width, 4 * 96: 4 * width}.get(size, size) for size in tensor.shape]
        found[f"perceiver_resampler.{name}"] = randn(shape) / 10
    found |= {f"perceiver_resampler.{k}": v for k, v in linear("proj_in", width, 40).items()}
    found |= {
        f"perceiver_resampler.{k}": v
        for k, v in {**linear("proj_out", width, width), **norm("norm_out", width)}.items()
    }
    found = {name: tensor.to(dtype) for name, tensor in found.items()}
    faces, states = randn(2, 3, 32).to(dtype), randn(2, 3, 9, 40).to(dtype)
    theirs = diffusers_unet().to(dtype)._convert_ip_adapter_image_proj_to_diffusers(dict(found)).eval()
    theirs.clip_embeds, theirs.shortcut, theirs.shortcut_scale = states, shortcut is not None, shortcut
    with torch.no_grad():
        ours = tokens(of_file(found), FacePictures(faces, states, shortcut))
        assert torch.equal(ours, theirs(faces.flatten(0, 1)).unflatten(0, (2, 3)).flatten(1, 2))
