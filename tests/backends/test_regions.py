"""The parts of a UNet as pure functions, traced but not compiled."""

import pytest
import torch

from ipa_cli.attention import call_unet, install, project
from ipa_cli.backends import regions
from tests.unets import AS_SD15, adapter, difference, embeddings, tiny_unet, unet_inputs


def traced(unet, inputs, granularity, sizes):
    """Replacements of the parts' forwards by their traced programs."""
    places = {place.name: place for place in regions.places(unet, granularity)}
    forwards = {}
    for region in regions.find(unet, inputs, granularity, sizes is not None):
        adapters = len(inputs.context.image)
        program = regions.export(unet, region, adapters, granularity, sizes).module()
        for name in region.modules:
            place = places.pop(name)

            def run(arguments, place=place, region=region, program=program):
                return program(place.parameters(region.weights), arguments)

            forwards[place.module] = regions.forward(place, run)
    assert not places
    return forwards


@pytest.mark.parametrize("granularity", regions.CLASSES)
@pytest.mark.parametrize(("adapters", "sizes"), [(0, None), (1, (2, 32)), (2, (2, 32))])
def test_parts_do_what_the_unet_does(granularity, adapters, sizes):
    unet = tiny_unet()
    weights = install(unet, [adapter(unet, seed=number) for number in range(adapters)])
    text, images = embeddings(unet, adapters)
    context = project(unet, weights, text, images)
    forwards = traced(unet, unet_inputs(context), granularity, sizes)
    torch.manual_seed(5)
    for height, width in [(16, 16)] if sizes is None else [(16, 16), (12, 20), (9, 31)]:
        inputs = unet_inputs(context._replace(scale=torch.rand_like(context.scale)), height, width)
        for name, weight in unet.named_parameters():
            if "resnets.0.conv1" in name or "ff.net.2" in name:
                weight.mul_(1.1)  # one program serves many modules and any weights
        with torch.no_grad():
            expected = call_unet(unet, inputs)
            with regions.replaced(forwards):
                output = call_unet(unet, inputs._replace(context=regions.rows(inputs.context)))
        assert difference(output, expected) < 1e-5


@pytest.mark.parametrize("granularity", regions.CLASSES)
def test_parts_do_what_the_unet_of_sd15_does(granularity):
    unet = tiny_unet(changes=AS_SD15)
    weights = install(unet, [adapter(unet)])
    text, images = embeddings(unet)
    inputs = unet_inputs(project(unet, weights, text, images))._replace(text_embeds=torch.zeros(2, 0))
    forwards = traced(unet, inputs, granularity, (2, 32))
    with torch.no_grad():
        expected = call_unet(unet, inputs)
        with regions.replaced(forwards):
            output = call_unet(unet, inputs._replace(context=regions.rows(inputs.context)))
    assert difference(output, expected) < 1e-5


def test_kinds_are_few_and_differ_where_the_modules_do():
    unet = tiny_unet()
    weights = install(unet, [adapter(unet)])
    text, images = embeddings(unet)
    inputs = unet_inputs(project(unet, weights, text, images))
    fixed = regions.find(unet, inputs, "transformers", False)
    moving = regions.find(unet, inputs, "transformers", True)
    assert [len(region.modules) for region in moving] == [4, 4, 4]
    assert len(fixed) == 5  # the same residual blocks at two sizes
    unet.mid_block.resnets[0].output_scale_factor = 2.0
    assert len(regions.find(unet, inputs, "transformers", True)) == 4


def test_no_part_takes_the_weights_of_the_texts_keys_and_values():
    unet = tiny_unet()
    weights = install(unet, [adapter(unet)])
    text, images = embeddings(unet)
    inputs = unet_inputs(project(unet, weights, text, images))
    names = [name for region in regions.find(unet, inputs, "transformers", True) for name in region.weights]
    assert not [name for name in names if "attn2.to_k" in name or "attn2.to_v" in name]
    assert [name for name in names if name.endswith("attn2.to_q.weight")]


def test_rows_of_the_scale_lie_on_sixteen_bytes():
    unet = tiny_unet()
    weights = install(unet, [adapter(unet), adapter(unet), adapter(unet)])
    text, images = embeddings(unet, 3)
    context = regions.rows(project(unet, weights, text, images, torch.arange(24.0).reshape(3, 8)))
    assert context.scale.shape == (8, 4) and context.scale.is_contiguous()
    assert context.scale[2, :3].tolist() == [2, 10, 18]


def test_forwards_come_back_after_a_failure():
    unet = tiny_unet()
    with pytest.raises(ZeroDivisionError), regions.replaced({unet.conv_in: lambda *_: 1 / 0}):
        unet.conv_in(torch.zeros(1, 4, 8, 8))
    assert unet.conv_in(torch.zeros(1, 4, 8, 8)).shape == (1, 32, 8, 8)
    unet.conv_in.forward = hook = lambda *_: "hooked"
    with regions.replaced({unet.conv_in: lambda *_: "replaced"}):
        assert unet.conv_in(None) == "replaced"
    assert unet.conv_in.forward is hook


@pytest.mark.parametrize("granularity", regions.CLASSES)
def test_masks_are_inputs_of_the_parts(granularity):
    unet = tiny_unet()
    weights = install(unet, [adapter(unet, seed=number) for number in range(2)])
    text, images = embeddings(unet, 2)
    plain = project(unet, weights, text, images)
    # The tiny UNet attends on one level alone: pictures of 16 x 16 latent pixels are 8 x 8 there.
    masks = [[torch.zeros(1, 1, 64, 1)] * plain.scale.shape[1] for _ in range(2)]
    context = plain._replace(mask=masks)
    forwards = traced(unet, unet_inputs(context), granularity, None)
    torch.manual_seed(5)
    context = context._replace(mask=[[torch.rand_like(mask) for mask in own] for own in masks])
    inputs = unet_inputs(context)
    with torch.no_grad():
        expected = call_unet(unet, inputs)
        with regions.replaced(forwards):
            output = call_unet(unet, inputs._replace(context=regions.rows(context)))
        assert difference(output, expected) < 1e-5
        assert difference(expected, call_unet(unet, unet_inputs(plain))) > 1e-3
