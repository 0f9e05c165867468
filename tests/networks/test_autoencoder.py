"""The VAE against diffusers': the same pixels and latents to the bit, whole and in tiles."""

import pytest
import torch
from diffusers import AutoencoderKL as Reference

from ipa_cli.networks.autoencoder import AutoencoderKL

SMALL = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 8,
    "layers_per_block": 2,
    "sample_size": 16,
}
BARE = {"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False}


@pytest.mark.parametrize("tiling", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (21, 26)])
@pytest.mark.parametrize(("changes", "dtype"), [({}, torch.float32), ({}, torch.bfloat16), (BARE, torch.float32)])
def test_it_is_diffusers_to_the_bit(changes, dtype, size, tiling):
    torch.manual_seed(0)
    theirs, ours = Reference.from_config({**SMALL, **changes}).eval(), AutoencoderKL({**SMALL, **changes}).eval()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    ours.to(dtype)
    for parameter in theirs.parameters():
        parameter.data = parameter.data.to(dtype)
    ours.tiling = tiling
    if tiling:
        theirs.enable_tiling()
    latents = torch.randn(1, 4, *size, dtype=dtype)
    pixels = torch.randn(1, 3, *(2 * side for side in size), dtype=dtype)
    with torch.no_grad():
        assert torch.equal(ours.decode(latents), theirs.decode(latents, return_dict=False)[0])
        expected = theirs.encode(pixels).latent_dist
        mean, deviation = ours.encode(pixels)
    assert torch.equal(mean, expected.mean) and torch.equal(deviation, expected.std)


@pytest.mark.parametrize("sample_size", [2, 9, 22])
def test_tiles_join_to_the_whole_whatever_the_size_the_vae_was_trained_at(sample_size):
    vae = AutoencoderKL({**SMALL, **BARE, "sample_size": sample_size}).eval()
    vae.tiling = True
    with torch.no_grad():
        assert vae.decode(torch.randn(1, 4, 21, 26)).shape == (1, 3, 42, 52)
        assert vae.encode(torch.randn(1, 3, 42, 52))[0].shape == (1, 4, 21, 26)
