"""Linear layers in fp8, and weights kept in another form."""

import pytest
import torch
from torch import nn

from ipa_cli.backends.inductor import backend, blocks, derived, parts, regions, worker
from ipa_cli.backends.inductor.fp8 import (
    GRAIN,
    BlockLinear,
    EightBitLinear,
    quantised,
    quantised_by_squares,
    quantised_taps,
)
from ipa_cli.backends.inductor.kernel_options import CONVOLUTIONS, LINEAR, KernelOptions
from ipa_cli.errors import UsageError
from ipa_cli.unet.inputs import call_unet
from tests.unets import FLAT, difference, example, moved, tiny


def test_rows_keep_their_size():
    states = torch.randn(5, 64) * torch.tensor([[1e-3], [1.0], [300.0], [0.0], [7.0]])
    rows, size = quantised(states)
    assert rows.dtype == torch.float8_e4m3fn and size.shape == (5, 1)
    assert ((rows.float() * size - states).norm(dim=1) <= 0.04 * states.norm(dim=1)).all()


def test_squares_keep_their_size():
    weight = torch.randn(256, 384) * torch.logspace(-3, 3, 6).reshape(2, 3).kron(torch.ones(128, 128))
    numbers, size = quantised_by_squares(weight)
    assert numbers.dtype == torch.float8_e4m3fn and numbers.shape == weight.shape and size.shape == (2, 3)
    error = (numbers.float() * size.kron(torch.ones(128, 128)) - weight).unflatten(1, (3, 128)).unflatten(0, (2, 128))
    assert (error.norm(dim=(1, 3)) < 0.04 * weight.unflatten(1, (3, 128)).unflatten(0, (2, 128)).norm(dim=(1, 3))).all()


def test_taps_lie_line_by_line_and_keep_their_size():
    weight = torch.randn(6, 5, 3, 3) * torch.logspace(-3, 3, 6)[:, None, None, None]
    numbers, size = quantised_taps(weight)
    assert numbers.dtype == torch.float8_e4m3fn and numbers.shape == (6, 45) and size.shape == (6,)
    error = (numbers.float() * size[:, None] / GRAIN).reshape(6, 3, 3, 5).permute(0, 3, 1, 2) - weight
    assert (error.flatten(1).norm(dim=1) < 0.04 * weight.flatten(1).norm(dim=1)).all()


def test_convolutions_are_in_fp8_on_hopper_alone():
    unet, adapters = tiny()
    context = example(unet, adapters).context
    split = parts.split(unet, KernelOptions(eight=CONVOLUTIONS), context)
    found = [part for name, part in split.items() if name.rpartition(".")[0].endswith("resnets")]
    assert found
    for part in found:
        assert type(part.module.resnet.conv1) is type(part.module.resnet.conv2) is blocks.NormedConvolution
        assert not [name for name in part.weights if name.endswith("size")]


@pytest.mark.parametrize("shift", ["default", "scale_shift"])
def test_convolutions_and_their_weights_are_of_one_kind(monkeypatch, shift):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_: (9, 0))  # a Hopper GPU, were it one
    monkeypatch.setattr(blocks, "_is_half", lambda _: True)
    unet, adapters = tiny(changes={"resnet_time_scale_shift": shift})
    split = parts.split(unet, KernelOptions(eight=CONVOLUTIONS), example(unet, adapters).context)
    found = [part for name, part in split.items() if name.rpartition(".")[0].endswith("resnets")]
    assert found
    for part in found:
        shapes = {name: (weight.shape, weight.dtype) for name, weight in part.module.named_parameters()}
        assert shapes == {name: (w.read().shape, w.read().dtype) for name, w in part.weights.items()}
        eight = type(part.module.resnet.conv2) is blocks.EightBitConvolution
        assert eight == ("resnet.conv2.size" in part.weights) == (shift == "default")


@pytest.mark.gpu
def test_a_unet_with_convolutions_in_fp8_is_near_the_plain_one():
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a Hopper GPU")
    unet, adapters = tiny()
    inputs = moved(example(unet, adapters, 12, 20), torch.float16)
    unet.to("cuda", torch.float16)
    split = parts.split(unet, KernelOptions(eight=CONVOLUTIONS), inputs.context)
    eight = [part for part in split.values() if "resnet.conv1.size" in part.weights]
    assert eight and all(type(part.module.resnet.conv2) is blocks.EightBitConvolution for part in eight)
    with torch.no_grad():
        got = parts.walk(unet, split, inputs, lambda name, given: split[name](given))
        error = difference(got, call_unet(unet, inputs))
    assert 1e-3 < error < 0.2  # the first: it is fp8


@pytest.mark.slow
def test_a_unet_in_fp8_is_near_the_plain_one():
    unet, adapters = tiny()
    inputs = example(unet, adapters)
    split = parts.split(unet, KernelOptions(eight=LINEAR), inputs.context)
    with torch.no_grad():
        got = parts.walk(unet, split, inputs, lambda name, given: split[name](given))
        error = difference(got, call_unet(unet, inputs))
    assert 1e-3 < error < 0.05  # the first: it is fp8


@pytest.mark.slow
def test_weights_are_kept_by_squares_where_a_kernel_gives_blocks():
    changes = {**FLAT, "block_out_channels": [128], "attention_head_dim": [4]}
    for width, dtype, kernels, kept in [
        (128, torch.float16, ("gate",), True),
        (128, torch.float32, ("gate",), False),
        (128, torch.float16, ("rows",), False),
        (64, torch.float16, ("gate",), False),
    ]:
        unet, adapters = tiny(changes={**changes, "block_out_channels": [width]})
        context = example(unet, adapters).context
        unet.to(dtype)
        split = parts.split(unet, KernelOptions(kernels, eight=LINEAR, squares=True), context)
        found = [part for name, part in split.items() if "transformer_blocks" in name]
        assert found
        for part in found:
            shapes = {name: (weight.shape, weight.dtype) for name, weight in part.module.named_parameters()}
            assert shapes == {name: (w.read().shape, w.read().dtype) for name, w in part.weights.items()}
            assert (part.weights["block.ff.net.2.weight"].form == "squares") == kept
            assert type(part.module.block.ff.net[2]) is (BlockLinear if kept else EightBitLinear)


def test_a_form_is_made_again_when_its_weight_has_changed():
    layer = nn.Linear(8, 8)
    calls = []

    def read():
        calls.append(1)
        return layer.weight

    first = derived.kept([layer.weight], "size", read)
    assert derived.kept([layer.weight], "size", read) is first and len(calls) == 1
    with torch.no_grad():
        layer.weight.mul_(2)
    assert torch.allclose(derived.kept([layer.weight], "size", read), 2 * first) and len(calls) == 2


def test_four_phases_do_what_enlarging_and_convolving_does():
    torch.manual_seed(0)
    picture, weight = torch.randn(2, 3, 5, 4), torch.randn(6, 3, 3, 3)
    expected = nn.functional.conv2d(nn.functional.interpolate(picture, scale_factor=2.0), weight, padding=1)
    four = nn.functional.conv2d(picture, derived.four_phases(weight), padding=1).unflatten(1, (2, 2, 6))
    for row in (0, 1):
        for column in (0, 1):
            got = four[:, row, column, :, row : row + 5, column : column + 4]
            assert torch.allclose(got, expected[:, :, row::2, column::2], atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9), reason="this GPU can")
def test_fp8_is_refused_where_it_cannot_run(tmp_path):
    unet, adapters = tiny()
    with pytest.raises(UsageError, match="compute capability"):
        backend.compile(unet, example(unet, adapters), tmp_path, backend.options({"precision": "fp8"}), lambda _: None)


@pytest.mark.slow
def test_what_compiled_code_is_tried_with_stays_finite_in_fp8():
    unet, adapters = tiny()
    inputs = example(unet, adapters)
    split = parts.split(unet, KernelOptions(eight=LINEAR), inputs.context)
    kinds = [region for region in regions.find(unet, split, inputs, False) if region.name.startswith("block")]
    for region in kinds:
        weights = [worker._random(layout, "cpu", product=True) for layout in region.weight_layouts]
        given = [worker._random(layout, "cpu", product=False) for layout in region.inputs]
        eight = [weight.float() for weight in weights if weight.dtype == torch.float8_e4m3fn]
        assert len(eight) == len(LINEAR) and all(weight.abs().max() < 448 for weight in eight)
        with torch.no_grad():
            states, more = split[region.parts[0]].pure(weights, given)
        assert 0.1 < states.std() < 10 and 0.1 < more.std() < 10
