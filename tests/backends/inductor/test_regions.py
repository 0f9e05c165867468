"""The parts of a UNet as pure functions, traced but not compiled."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from ipa_cli.backends.inductor import backend, compilation, loading, norms, partition, regions
from ipa_cli.backends.inductor.kernel_options import KernelOptions
from ipa_cli.errors import IpaError
from ipa_cli.unet.attention import install, project
from ipa_cli.unet.control import ControlNet
from ipa_cli.unet.inputs import ControlInputs, tensors
from tests.unets import (
    AS_SD15,
    TINY,
    adapter,
    difference,
    embeddings,
    example,
    residuals,
    tiny,
    tiny_unet,
    twice,
    unet_inputs,
)

pytestmark = pytest.mark.slow

OPTIONS = KernelOptions(fuse_upsample=True)


def traced(unet, inputs, sizes, tokens=None):
    """The parts of a UNet, and what runs each by its kind's traced program."""
    split = partition.partition(unet, OPTIONS, inputs.context)
    programs = {}
    for region in regions.find(unet, split, inputs, sizes is not None):
        limits = sizes if len(region.inputs[0].shape) > 2 else None
        program = regions.export(split[region.parts[0]], region, limits, tokens).module()
        programs |= dict.fromkeys(region.parts, program)
    assert programs.keys() == split.keys()

    def run(name, given):
        weights = [weight.read() for weight in split[name].weights.values()]
        return programs[name](weights, [partition.aligned(tensor) for tensor in given])

    return split, run


def scene(adapters=1, changes=None):
    unet = tiny_unet(changes=changes)
    weights = install(unet, [adapter(unet, seed=number) for number in range(adapters)])
    text, images = embeddings(unet, adapters)
    inputs = unet_inputs(project(unet, weights, text, images))
    return unet, inputs if changes is None else replace(inputs, added=None)


@pytest.mark.parametrize(("adapters", "sizes"), [(0, None), (2, (2, 32))])
def test_parts_do_what_the_unet_does(adapters, sizes):
    unet, inputs = scene(adapters)
    split, run = traced(unet, inputs, sizes)
    torch.manual_seed(5)
    for height, width in [(16, 16)] if sizes is None else [(16, 16), (12, 20), (9, 31)]:
        context = inputs.context._replace(scale=torch.rand_like(inputs.context.scale))
        given = unet_inputs(context, height, width)
        with torch.no_grad():
            for name, weight in unet.named_parameters():
                if "resnets.0.conv1" in name or "ff.net.2" in name or "attn1.to_k" in name:
                    weight.mul_(1.1)  # one program serves many modules and any weights
            assert difference(partition.run_parts(unet, split, given, run), unet(given)) < 1e-5


def test_one_program_serves_every_number_of_text_tokens():
    unet, inputs = scene()
    count = inputs.context.text[0].shape[3]
    split, run = traced(unet, inputs, (2, 32), (count, 4 * count))
    for chunks in (1, 2, 4):
        text = [torch.randn_like(torch.cat([one] * chunks, 3)) for one in inputs.context.text]
        given = unet_inputs(inputs.context._replace(text=text), 16, 16)
        with torch.no_grad():
            assert difference(partition.run_parts(unet, split, given, run), unet(given)) < 1e-5


def test_every_kind_is_traced_for_a_range_of_sizes_in_the_default_options():
    unet, inputs = scene()
    dtype = torch.float16  # in float32 they are compiled for the tests of the backend
    unet.to(dtype).to(memory_format=torch.channels_last)
    cast = pytree.tree_map(lambda tensor: tensor.to(dtype), inputs)
    context = cast.context._replace(scale=inputs.context.scale)
    inputs = replace(cast, timestep=inputs.timestep, context=context)
    options = backend.options({"dynamic": [64, 256]})
    split = partition.partition(unet, loading.kernel_options(options, unet.device), context)
    for region in regions.find(unet, split, inputs, True):
        sizes = compilation._latent_sizes(region, inputs, options)
        program = regions.export(split[region.parts[0]], region, sizes)
        assert bool(program.range_constraints) == (sizes is not None)


def test_kinds_are_few_and_differ_where_the_modules_do():
    unet, inputs = scene()

    def kinds(dynamic):
        found = regions.find(unet, partition.partition(unet, OPTIONS, inputs.context), inputs, dynamic)
        return sorted(f"{region.name.partition('-')[0]} {len(region.parts)}" for region in found)

    expected = [
        "outputlayer 1",
        "resnetblock 4",
        "resnetblock 4",
        "timeembedding 1",
        "transformerblock 8",
        "transformerinput 4",
        "transformeroutput 4",
        "upsample 1",
    ]
    assert kinds(dynamic=True) == expected
    assert len(kinds(dynamic=False)) == len(expected) + 2  # the same residual blocks at two sizes
    unet.mid_block.resnets[0].output_scale_factor = 2.0
    assert len(kinds(dynamic=True)) == len(expected) + 1


def test_a_unet_that_does_more_is_refused():
    unet, inputs = scene()
    unet.conv_in.register_forward_hook(lambda *_: None)  # harmless
    unet.mid_block.register_forward_hook(lambda _module, _given, out: 3 * out)  # not in the parts
    with pytest.raises(IpaError, match="does not know"):
        regions.find(unet, partition.partition(unet, OPTIONS, inputs.context), inputs, False)


def test_no_part_takes_the_weights_of_the_texts_keys_and_values():
    unet, _ = tiny()
    split = partition.partition(unet, OPTIONS)
    taken = {id(owner) for part in split.values() for weight in part.weights.values() for owner in weight.owners}
    left = {name for name, module in unet.named_modules() if module._parameters and id(module) not in taken}
    lone = {name for name in left if name == "conv_in" or "samplers" in name}
    assert {name.rpartition(".attn2.")[2] for name in left - lone} == {"to_k", "to_v"}


def test_joined_weights_take_no_more_memory_and_follow_changes():
    torch.manual_seed(0)
    owners = [nn.Linear(4, 4) for _ in range(3)]
    before = torch.cat([owner.weight for owner in owners])
    whole = partition.concat_parameters(owners, "weight")
    assert torch.equal(whole, before)
    assert {owner.weight.untyped_storage().data_ptr() for owner in owners} == {whole.untyped_storage().data_ptr()}
    with torch.no_grad():
        owners[1].weight.mul_(2)
    again = partition.concat_parameters(owners, "weight")
    assert again.data_ptr() == whole.data_ptr() and torch.equal(again[4:8], 2 * before[4:8])
    owners[2].weight = nn.Parameter(torch.ones(4, 4))
    replaced = partition.concat_parameters(owners, "weight")
    assert replaced.data_ptr() != whole.data_ptr() and replaced[8:].eq(1).all()


def test_rows_of_the_scale_lie_on_sixteen_bytes():
    rows = partition.padded_scale(torch.arange(24.0).reshape(3, 8))
    assert rows.shape == (8, 4) and rows.is_contiguous()
    assert rows[2, :3].tolist() == [2, 10, 18]


def test_the_unet_runs_as_before_once_it_is_split():
    unet, adapters = tiny()
    inputs = example(unet, adapters)
    with torch.no_grad():
        before = unet(inputs)
        split = partition.partition(unet, OPTIONS, inputs.context)
        partition.run_parts(unet, split, inputs, lambda name, given: split[name](given))
        assert torch.equal(unet(inputs), before)


def test_masks_are_inputs_of_the_parts():
    unet, inputs = scene(2)
    # The tiny UNet attends on one level alone: pictures of 16 x 16 latent pixels are 8 x 8 there.
    masks = [[torch.zeros(1, 1, 64, 1)] * inputs.context.scale.shape[1] for _ in range(2)]
    split, run = traced(unet, replace(inputs, context=inputs.context._replace(mask=masks)), None)
    torch.manual_seed(5)
    masked = inputs.context._replace(mask=[[torch.rand_like(mask) for mask in own] for own in masks])
    given = replace(inputs, context=masked)
    with torch.no_grad():
        expected = unet(given)
        assert difference(partition.run_parts(unet, split, given, run), expected) < 1e-5
        assert difference(expected, unet(inputs)) > 1e-3


def test_prompts_of_regions_and_their_shares_are_inputs_of_the_parts():
    unet, inputs = scene(2)
    context = inputs.context

    def changed(seed: int):
        torch.manual_seed(seed)
        regions = [[torch.randn_like(pair) for pair in context.text] for _ in range(2)]
        mask = [[torch.rand(1, 1, 64, 1) for _ in context.text] for _ in range(2)]
        share = [[torch.rand(1, 1, 64, 1) for _ in context.text] for _ in range(3)]
        return replace(inputs, context=context._replace(regions=regions, share=share, mask=mask))

    split, run = traced(unet, changed(1), None)
    for given in (changed(2), changed(3)):
        with torch.no_grad():
            expected = unet(given)
            assert difference(partition.run_parts(unet, split, given, run), expected) < 1e-5
            assert difference(expected, unet(inputs)) > 1e-3


def test_several_pictures_in_a_call_have_a_graph_of_their_own():
    unet, inputs = scene()
    inputs = twice(inputs)
    split, run = traced(unet, inputs, None)
    with torch.no_grad():
        assert difference(partition.run_parts(unet, split, inputs, run), unet(inputs)) < 1e-5


@pytest.mark.parametrize(("changes", "sizes"), [(None, None), (AS_SD15, (2, 32))])
def test_parts_do_what_the_unet_of_either_family_does_and_control_residuals_are_added_between(changes, sizes):
    unet, inputs = scene(changes=changes)
    split, run = traced(unet, inputs, sizes)  # without residuals: the same programs serve both
    given = replace(inputs, control=residuals(unet, inputs))
    with torch.no_grad():
        plain, expected = unet(inputs), unet(given)
        assert difference(partition.run_parts(unet, split, inputs, run), plain) < 1e-5
        assert difference(partition.run_parts(unet, split, given, run), expected) < 1e-5
        assert difference(expected, plain) > 1e-2


@pytest.mark.parametrize("height, width", [(1, 1), (5, 7)])
def test_group_norm_by_channels_is_group_norm(height, width):
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 20)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    channels = 30 * torch.randn(20, 1, 1)  # as far from each other as those of one group may be
    picture = torch.randn(2, 20, height, width) + channels
    with torch.no_grad():
        assert torch.allclose(norms.GroupNorm(norm)(picture), norm(picture), atol=1e-5)


PLAIN = {"down_block_types": ["DownBlock2D"] * 2, "mid_block_type": "UNetMidBlock2D"}


@pytest.mark.parametrize("changes", [{}, AS_SD15, {"num_control_type": 3, "num_trans_channel": 32}, PLAIN])
def test_parts_do_what_a_controlnet_does(changes):
    torch.manual_seed(0)
    config = {key: value for key, value in {**TINY, **changes}.items() if key != "up_block_types"}
    network = ControlNet({**config, "num_proj_channel": 32}).eval().requires_grad_(False)
    for weight in network.parameters():
        weight.copy_(weight.nan_to_num(0).clamp(-1, 1))  # those of a union model's attention have no beginning
    context = project(network, install(network, []), torch.randn(2, 77, 64))
    hint, kind = network.hint(torch.rand(1, 3, 128, 128), 1)
    added = unet_inputs(context).added if network.config.addition_embed_type else None
    rows = torch.tensor([0.3, 1.2]).view(2, 1, 1, 1)
    kind = None if kind is None else kind.expand(2, -1).contiguous()
    timestep = torch.tensor(7.0)
    inputs = ControlInputs(torch.randn(2, 4, 16, 16), timestep, context, hint.expand(2, -1, -1, -1), rows, added, kind)
    split, run = traced(network, inputs, (2, 32))
    found, expected = partition.run_parts(network, split, inputs, run), network(inputs)
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        assert difference(one, other) < 1e-5
