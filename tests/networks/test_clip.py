"""CLIP's encoders against transformers': the same states to the bit."""

import pytest
import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from ipa_cli.networks.clip import ACTIVATIONS, ImageEncoder, TextEncoder

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 3}
TEXT = {**SMALL, "vocab_size": 100, "projection_dim": 32, "bos_token_id": 98, "pad_token_id": 99}
VISION = {**SMALL, "projection_dim": 32, "image_size": 56, "patch_size": 14}


def weights(module):
    """By the names of files: transformers 5 leaves a first "text_model." out."""
    return {name.removeprefix("text_model."): tensor for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{"eos_token_id": 2}, {"eos_token_id": 99, "hidden_act": "gelu"}])
@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
def test_text_states_are_those_of_transformers_to_the_bit(kind, changes, dtype):
    torch.manual_seed(0)
    config, projected = {**TEXT, **changes}, kind is CLIPTextModelWithProjection
    theirs = kind(kind.config_class(**config)).eval().to(dtype)
    ours = TextEncoder(config, projected).eval().to(dtype)
    found = weights(theirs)
    assert found.keys() == weights(ours).keys()
    ours.load_state_dict({name: found[name.removeprefix("text_model.")] for name in ours.state_dict()})
    ids = torch.randint(3, 98, (2, 77))
    ids[0, 10:], ids[1, 30:] = 99, 99
    with torch.no_grad():
        got, expected = ours(ids), theirs(ids, output_hidden_states=True)
    assert torch.equal(got.penultimate, expected.hidden_states[-2])
    assert torch.equal(got.last, expected.last_hidden_state)
    if projected:  # as of each alone
        assert torch.equal(
            got.pooled, torch.cat([theirs.text_projection(one) for one in pooled(expected, ids).split(1)])
        )
    else:
        assert torch.equal(got.pooled, expected.pooler_output)


def pooled(found, ids):
    """The states of the tokens that end the texts, which have the highest number."""
    return found.last_hidden_state[torch.arange(len(ids)), ids.argmax(-1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_image_states_are_those_of_transformers_to_the_bit(activation, dtype):
    torch.manual_seed(0)
    config = {**VISION, "hidden_act": activation}
    theirs = CLIPVisionModelWithProjection(CLIPVisionModelWithProjection.config_class(**config)).eval().to(dtype)
    ours = ImageEncoder(config).eval().to(dtype)
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, 56, 56, dtype=dtype)
    with torch.no_grad():
        got, expected = ours(pixels), theirs(pixels, output_hidden_states=True)
    assert torch.equal(got.penultimate, expected.hidden_states[-2])
    states = expected.last_hidden_state[:, 0]
    own = torch.cat([theirs.visual_projection(one) for one in theirs.vision_model.post_layernorm(states).split(1)])
    assert torch.equal(got.embeds, own)  # as of each alone
