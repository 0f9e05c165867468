"""The IP-Adapter attention against diffusers' own."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from ipa_cli.errors import IpaError
from ipa_cli.unet.attention import CrossAttention, install, layers, project
from tests.unets import adapter, difference, diffusers_unet, embeddings, plus_projection, tiny, tiny_unet, unet_inputs

SCALES = [0.0, 0.3, 1.0]


def diffusers_output(unet: Any, states: list, scales: list[float], text, images, inputs) -> torch.Tensor:
    unet._load_ip_adapter_weights(states, low_cpu_mem_usage=False)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            processor.scale = list(scales)
    added = {**vars(inputs.added), "image_embeds": images}
    with torch.no_grad():
        return unet(
            inputs.sample,
            inputs.timestep,
            encoder_hidden_states=text,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("adapters", "images"), [(1, 1), (1, 3), (2, 1)])
def test_unet_call_equals_diffusers(adapters, images, scale):
    unet = tiny_unet()
    states = [adapter(unet, seed=number) for number in range(adapters)]
    text, embeds = embeddings(unet, adapters, images)
    weights = install(unet, states)
    scales = [scale, 0.7][:adapters]
    context = project(unet, weights, text, embeds, torch.tensor(scales)[:, None].repeat(1, len(layers(unet))))
    inputs = unet_inputs(context)
    with torch.no_grad():
        ours = unet(inputs)
        plain = unet(replace(inputs, context=context._replace(scale=context.scale * 0)))
    expected = diffusers_output(diffusers_unet(), states, scales, text, embeds, inputs)
    assert difference(ours, expected) < 1e-5
    assert (difference(ours, plain) > 1e-3) == any(scales)  # the images count, and only by their scale


@pytest.mark.parametrize("scale", SCALES)
def test_processor_equals_diffusers(scale):
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    unet = tiny_unet()
    states = [adapter(unet, seed=number) for number in range(2)]
    weights = install(unet, states)
    text, embeds = embeddings(unet, 2, 2)
    name = layers(unet)[1]
    attn, original = unet.get_submodule(name), diffusers_unet().get_submodule(name)
    theirs = IPAdapterAttnProcessor2_0(attn.to_q.in_features, text.shape[-1], (4, 4), [scale, 0.7])
    for number, state in enumerate(states):
        theirs.to_k_ip[number].weight.data = state["ip_adapter"]["3.to_k_ip.weight"]
        theirs.to_v_ip[number].weight.data = state["ip_adapter"]["3.to_v_ip.weight"]
    hidden = torch.randn(2, 25, attn.to_q.in_features)
    context = project(unet, weights, text, embeds, torch.tensor([scale, 0.7])[:, None].repeat(1, 8))
    with torch.no_grad():
        tokens = [
            projection(image.flatten(0, 1)).unflatten(0, (2, 2))
            for projection, image in zip(weights.projections, embeds, strict=True)
        ]
        expected = theirs(original, hidden, (text, [image.flatten(1, 2) for image in tokens]))
        ours = CrossAttention(1)(attn, hidden, context)
    assert difference(ours, expected) < 1e-5


def test_without_adapters_is_plain_text():
    unet = tiny_unet()
    text, _ = embeddings(unet, 0)
    weights = install(unet, [])
    inputs = unet_inputs(project(unet, weights, text))
    assert inputs.context.scale.shape == (0, len(layers(unet)))
    added = dict(vars(inputs.added))
    with torch.no_grad():
        ours = unet(inputs)
        expected = diffusers_unet()(inputs.sample, inputs.timestep, text, added_cond_kwargs=added).sample
    assert difference(ours, expected) < 1e-5


def test_scale_of_one_layer_counts_alone():
    unet, weights = tiny()
    text, embeds = embeddings(unet)
    context = project(unet, weights, text, embeds)
    outputs = []
    for layer in range(len(layers(unet))):
        scale = torch.zeros(1, len(layers(unet)))
        scale[0, layer] = 1
        with torch.no_grad():
            outputs.append(unet(unet_inputs(context._replace(scale=scale))))
    for number, output in enumerate(outputs):
        for other in outputs[:number]:
            assert difference(output, other) > 1e-4


def test_layers_are_in_the_order_of_the_file():
    unet = tiny_unet()
    expected = [
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2",
        "down_blocks.1.attentions.0.transformer_blocks.1.attn2",
        "up_blocks.0.attentions.0.transformer_blocks.0.attn2",
        "up_blocks.0.attentions.0.transformer_blocks.1.attn2",
        "up_blocks.0.attentions.1.transformer_blocks.0.attn2",
        "up_blocks.0.attentions.1.transformer_blocks.1.attn2",
        "mid_block.attentions.0.transformer_blocks.0.attn2",
        "mid_block.attentions.0.transformer_blocks.1.attn2",
    ]
    assert layers(unet) == expected
    install(unet, [adapter(unet)])
    assert layers(unet) == expected


def test_every_kind_of_projection_is_diffusers_own():
    """A Plus adapter: hidden states of the image encoder, (B, images, sequence, dim), through its resampler."""
    unet = tiny_unet()
    cross, dim = unet.config.cross_attention_dim, 32
    state = adapter(unet)
    state["image_proj"] = plus_projection(cross, dim, latents=5)
    text, _ = embeddings(unet, 0)
    images = [torch.randn(2, 2, 9, dim)]
    weights = install(unet, [state])
    context = project(unet, weights, text, images)
    assert context.image[0][0].shape == (2, 2, 2, 10, 16)  # keys and values, batch, heads, 2 images x 5 tokens, d
    with torch.no_grad():
        ours = unet(unet_inputs(context))
    expected = diffusers_output(diffusers_unet(), [state], [1.0], text, images, unet_inputs(context))
    assert difference(ours, expected) < 1e-5


def test_adapter_of_another_model_is_refused():
    unet = tiny_unet()
    state = adapter(unet)
    state["ip_adapter"]["5.to_v_ip.weight"] = torch.zeros(320, 768)
    with pytest.raises(IpaError, match=r"up_blocks\.0.*\(320, 768\)") as failure:
        install(unet, [state])
    assert failure.value.hint
    del state["ip_adapter"]["5.to_v_ip.weight"]
    with pytest.raises(IpaError, match="None"):
        install(unet, [state])


def test_images_for_each_adapter_are_wanted():
    unet, weights = tiny(adapters=2)
    text, embeds = embeddings(unet, 1)
    with pytest.raises(ValueError, match="2 adapters"):
        project(unet, weights, text, embeds)
