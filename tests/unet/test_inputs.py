"""Inputs of a UNet call: named members, those absent without a trace, ControlNet's residuals as diffusers adds them."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from ipa_cli.unet.attention import install, project
from ipa_cli.unet.inputs import ControlResiduals, UNetInputs, tensors
from tests.unets import (
    AS_SD15,
    difference,
    diffusers_unet,
    embeddings,
    example,
    residuals,
    tiny,
    tiny_unet,
    unet_inputs,
)


class Call(nn.Module):
    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, inputs):
        return self.unet(inputs)


def names(inputs):
    """The path of each tensor, without those of the context."""
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(inputs)[0]]
    return [path for path in paths if not path.startswith(".context")]


def test_tensors_are_found_by_the_names_of_their_members():
    inputs = example(*tiny())
    assert names(inputs) == [".sample", ".timestep", ".added.text_embeds", ".added.time_ids"]
    with_control = replace(inputs, control=residuals(tiny_unet(), inputs))
    assert names(with_control)[4:] == [*(f".control.down[{n}]" for n in range(4)), ".control.mid"]


def test_absent_members_have_no_tensors():
    inputs = replace(example(*tiny(changes=AS_SD15)), added=None)
    assert names(inputs) == [".sample", ".timestep"]
    assert len(tensors(inputs)) == len(pytree.tree_leaves(inputs))


def test_inputs_survive_a_walk_over_their_tensors():
    inputs = example(*tiny())
    doubled = pytree.tree_map(lambda tensor: 2 * tensor, inputs)
    assert isinstance(doubled, UNetInputs) and doubled.control is None
    assert torch.equal(doubled.added.time_ids, 2 * inputs.added.time_ids)
    assert torch.equal(doubled.context.image[0][3], 2 * inputs.context.image[0][3])


def test_control_residuals_do_what_they_do_in_diffusers():
    unet = tiny_unet()
    text, _ = embeddings(unet, 0)
    inputs = unet_inputs(project(unet, install(unet, []), text))
    control = residuals(unet, inputs)
    with torch.no_grad():
        ours = unet(replace(inputs, control=control))
        theirs = diffusers_unet()(
            inputs.sample,
            inputs.timestep,
            text,
            added_cond_kwargs=dict(vars(inputs.added)),
            down_block_additional_residuals=control.down,
            mid_block_additional_residual=control.mid,
        ).sample
        plain = unet(inputs)
    assert difference(ours, theirs) < 1e-5
    assert difference(ours, plain) > 1e-2


@pytest.mark.parametrize("part", ["down", "mid"])
def test_each_control_residual_counts(part):
    unet, adapters = tiny()
    inputs = example(unet, adapters)
    nothing = pytree.tree_map(torch.zeros_like, residuals(unet, inputs))
    some = replace(nothing, **{part: getattr(residuals(unet, inputs), part)})
    with torch.no_grad():
        plain = unet(inputs)
        assert difference(unet(replace(inputs, control=nothing)), plain) < 1e-6
        assert difference(unet(replace(inputs, control=some)), plain) > 1e-3


def test_without_added_conditions_sd15_does_what_diffusers_does():
    unet = tiny_unet(changes=AS_SD15)
    text, _ = embeddings(unet, 0)
    inputs = replace(unet_inputs(project(unet, install(unet, []), text)), added=None)
    with torch.no_grad():
        theirs = diffusers_unet(changes=AS_SD15)(inputs.sample, inputs.timestep, text).sample
        assert difference(unet(inputs), theirs) < 1e-5


@pytest.mark.slow
def test_an_exported_graph_has_no_inputs_for_absent_members():
    unet, adapters = tiny()
    inputs = example(unet, adapters)
    given = replace(inputs, control=residuals(unet, inputs))
    assert isinstance(given.control, ControlResiduals)
    for call, count in ((inputs, 0), (given, 5)):
        with torch.no_grad():
            program = torch.export.export(Call(unet), (call,), strict=False)
            assert difference(program.module()(call), unet(call)) < 1e-5
        assert len(program.graph_signature.user_inputs) == len(tensors(inputs)) + count
