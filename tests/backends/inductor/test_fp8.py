"""Linear layers in fp8, and transformed weights."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from ipa_cli.backends.inductor import (
    backend,
    blocks,
    fp8,
    loading,
    partition,
    regions,
    tuning,
    weight_transforms,
    worker,
)
from ipa_cli.backends.inductor.fp8 import (
    SILU_SCALE,
    BlockwiseFp8Linear,
    Fp8Linear,
    quantize_blockwise,
    quantize_conv,
    quantize_rowwise,
)
from ipa_cli.backends.inductor.kernel_options import CONVOLUTIONS, LINEAR, KernelOptions
from ipa_cli.errors import IpaError, UsageError
from tests.unets import FLAT, difference, example, moved, tiny


def test_rowwise_quantization_keeps_small_and_large_rows():
    states = torch.randn(5, 64) * torch.tensor([[1e-3], [1.0], [300.0], [0.0], [7.0]])
    rows, scale = quantize_rowwise(states)
    assert rows.dtype == torch.float8_e4m3fn and scale.shape == (5, 1)
    assert ((rows.float() * scale - states).norm(dim=1) <= 0.04 * states.norm(dim=1)).all()


def test_blockwise_quantization_keeps_small_and_large_blocks():
    weight = torch.randn(256, 384) * torch.logspace(-3, 3, 6).reshape(2, 3).kron(torch.ones(128, 128))
    values, scale = quantize_blockwise(weight)
    assert values.dtype == torch.float8_e4m3fn and values.shape == weight.shape and scale.shape == (2, 3)
    error = (values.float() * scale.kron(torch.ones(128, 128)) - weight).unflatten(1, (3, 128)).unflatten(0, (2, 128))
    assert (error.norm(dim=(1, 3)) < 0.04 * weight.unflatten(1, (3, 128)).unflatten(0, (2, 128)).norm(dim=(1, 3))).all()


def test_a_quantized_convolution_lies_line_by_line_and_keeps_small_channels():
    weight = torch.randn(6, 5, 3, 3) * torch.logspace(-3, 3, 6)[:, None, None, None]
    values, scale = quantize_conv(weight)
    assert values.dtype == torch.float8_e4m3fn and values.shape == (6, 45) and scale.shape == (6,)
    error = (values.float() * scale[:, None] / SILU_SCALE).reshape(6, 3, 3, 5).permute(0, 3, 1, 2) - weight
    assert (error.flatten(1).norm(dim=1) < 0.04 * weight.flatten(1).norm(dim=1)).all()


@pytest.mark.slow
def test_convolutions_are_in_fp8_on_hopper_alone():
    unet, adapters = tiny()
    context = example(unet, adapters).context
    split = partition.partition(unet, KernelOptions(fp8_layers=CONVOLUTIONS), context)
    found = [part for name, part in split.items() if name.rpartition(".")[0].endswith("resnets")]
    assert found
    for part in found:
        assert type(part.module.resnet.conv1) is type(part.module.resnet.conv2) is blocks.NormSiluConv2d
        assert not [name for name in part.weights if name.endswith("weight_scale")]


@pytest.mark.parametrize("shift", ["default", "scale_shift"])
def test_convolutions_have_the_shapes_of_their_weights(monkeypatch, shift):
    monkeypatch.setattr(blocks, "_is_half", lambda _: True)
    unet, adapters = tiny(changes={"resnet_time_scale_shift": shift})
    options = KernelOptions(fp8_layers=CONVOLUTIONS, tuning=tuning.chosen((9, 0)))  # a Hopper GPU, were it one
    split = partition.partition(unet, options, example(unet, adapters).context)
    found = [part for name, part in split.items() if name.rpartition(".")[0].endswith("resnets")]
    assert found
    for part in found:
        shapes = {name: (weight.shape, weight.dtype) for name, weight in part.module.named_parameters()}
        assert shapes == {name: (w.read().shape, w.read().dtype) for name, w in part.weights.items()}
        eight = type(part.module.resnet.conv2) is blocks.Fp8NormSiluConv2d
        assert eight == ("resnet.conv2.weight_scale" in part.weights) == (shift == "default")


@pytest.mark.gpu
def test_a_unet_with_convolutions_in_fp8_is_near_the_plain_one():
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a Hopper GPU")
    unet, adapters = tiny()
    inputs = moved(example(unet, adapters, 12, 20), torch.float16)
    unet.to("cuda", torch.float16)
    options = KernelOptions(fp8_layers=CONVOLUTIONS, tuning=tuning.chosen((9, 0)))
    split = partition.partition(unet, options, inputs.context)
    eight = [part for part in split.values() if "resnet.conv1.weight_scale" in part.weights]
    assert eight and all(type(part.module.resnet.conv2) is blocks.Fp8NormSiluConv2d for part in eight)
    with torch.no_grad():
        got = partition.run_parts(unet, split, inputs, lambda name, given: split[name](given))
        error = difference(got, unet(inputs))
    assert 1e-3 < error < 0.2  # the first: it is fp8


@pytest.mark.gpu
def test_our_kernels_for_norms_change_no_more_of_a_unet_in_fp8_than_rounding_does():
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a Hopper GPU")
    unet, adapters = tiny(changes={"block_out_channels": [128, 128], "attention_head_dim": [4, 4]})
    inputs = moved(example(unet, adapters, 16, 16), torch.float16)
    unet.to("cuda", torch.float16)
    layers = (*backend.PRESETS["fast"]["fp8_layers"], "attn2.to_q")
    outputs = []
    for ours in ({"norm_quantize": None}, {"norm_quantize": [1, 1]}):
        options = backend.options({"precision": "fp8", "fp8_layers": list(layers), "tuning": ours})
        split = partition.partition(unet, loading.kernel_options(options, unet.device), inputs.context)
        found = [module for part in split.values() for module in part.module.modules()]
        assert any(isinstance(module, blocks.NormQuantize) for module in found) == (ours["norm_quantize"] is not None)
        with torch.no_grad():
            outputs.append(partition.run_parts(unet, split, inputs, lambda name, given, of=split: of[name](given)))
        assert difference(outputs[-1], unet(inputs)) < 0.2 and difference(outputs[-1], outputs[0]) < 0.1


@pytest.mark.slow
def test_a_unet_in_fp8_is_near_the_plain_one():
    unet, adapters = tiny()
    inputs = example(unet, adapters)
    split = partition.partition(unet, KernelOptions(fp8_layers=LINEAR), inputs.context)
    with torch.no_grad():
        got = partition.run_parts(unet, split, inputs, lambda name, given: split[name](given))
        error = difference(got, unet(inputs))
    assert 1e-3 < error < 0.05  # the first: it is fp8


@pytest.mark.slow
def test_products_that_give_bfloat16_alone_serve_other_dtypes():
    layer = nn.Linear(64, 32)
    eight = Fp8Linear(layer, gives_half=False)
    eight.weight = nn.Parameter(quantize_rowwise(layer.weight)[0], requires_grad=False)
    eight.weight_scale = nn.Parameter(quantize_rowwise(layer.weight)[1].t().contiguous(), requires_grad=False)
    states = torch.randn(2, 16, 64)
    got = eight(states)
    assert got.dtype == torch.float32 and got.shape == (2, 16, 32)
    assert 1e-3 < (got - layer(states)).norm() / layer(states).norm() < 0.06


@pytest.mark.parametrize(("capability", "half"), [((8, 9), False), ((9, 0), True), ((12, 0), False)])
def test_products_give_half_precision_on_hopper_alone(monkeypatch, capability, half):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_: capability)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert fp8.gives_half(torch.device("cuda")) is half
    assert fp8.supports_blockwise(torch.device("cuda")) is (half and hasattr(nn.functional, "scaled_mm"))


@pytest.mark.slow
def test_a_layer_is_blockwise_where_a_kernel_quantizes_its_input_so():
    changes = {**FLAT, "block_out_channels": [128], "attention_head_dim": [4]}
    for width, dtype, kernels, kept in [
        (128, torch.float16, ("geglu",), True),
        (128, torch.float32, ("geglu",), False),
        (128, torch.float16, ("gate_quantize",), False),
        (64, torch.float16, ("geglu",), False),
    ]:
        unet, adapters = tiny(changes={**changes, "block_out_channels": [width]})
        context = example(unet, adapters).context
        unet.to(dtype)
        split = partition.partition(unet, KernelOptions(kernels, fp8_layers=LINEAR, blockwise=True), context)
        found = [part for name, part in split.items() if "transformer_blocks" in name]
        assert found
        for part in found:
            shapes = {name: (weight.shape, weight.dtype) for name, weight in part.module.named_parameters()}
            assert shapes == {name: (w.read().shape, w.read().dtype) for name, w in part.weights.items()}
            assert (part.weights["block.ff.net.2.weight"].transform == "blockwise") == kept
            assert type(part.module.block.ff.net[2]) is (BlockwiseFp8Linear if kept else Fp8Linear)


def dequantized_product(a, b, scale_a, scale_b, bias=None, out_dtype=None, **_):
    """`torch._scaled_mm` by rows and by blocks, in float32."""
    if scale_a.shape[1] > 1:
        scale_a, scale_b = scale_a.repeat_interleave(128, 1), scale_b.repeat_interleave(128, 0)
        scale_b = scale_b.repeat_interleave(128, 1)
    out = (a.float() * scale_a) @ (b.float() * scale_b)
    return (out if bias is None else out + bias.float()).to(out_dtype)


def no_product(*_, **__):
    raise RuntimeError("Rowwise scaling is not supported\nException raised from …")


def wrong_product(*given, **more):
    return 2 * dequantized_product(*given, **more)


@pytest.mark.parametrize(
    ("product", "problem"),
    [(dequantized_product, None), (no_product, "Rowwise scaling is not supported$"), (wrong_product, "is wrong$")],
)
def test_a_torch_without_fp8_products_for_a_gpu_is_refused_with_what_to_do(monkeypatch, product, problem):
    monkeypatch.setattr(torch, "_scaled_mm", product)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_: (12, 0))
    with (
        nullcontext() if problem is None else pytest.raises(IpaError, match=f"capability 12.0: .*{problem}") as refused
    ):
        fp8.check_product(torch.device("cpu"))
    assert problem is None or "leave out --precision fp8" in refused.value.hint


@pytest.mark.parametrize("precision", ["fp8", "half"])
def test_fp8_products_are_tried_before_anything_is_compiled_or_opened(monkeypatch, precision):
    tried = []
    monkeypatch.setattr(fp8, "check_product", tried.append)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_: (8, 9))
    loading.kernel_options(backend.options({"precision": precision}), torch.device("cuda"))
    assert tried == [torch.device("cuda")] * (precision == "fp8")


def gate_and_quantize_blocks(self, states):
    """`GegluQuantize.forward` without a kernel of ours."""
    values, scale, shape = fp8.RowwiseStates.of(states)
    weight = self.proj.weight.float() * self.proj.weight_scale.t()
    value, gate = nn.functional.linear(values.float() * scale, weight, self.proj.bias.float()).chunk(2, -1)
    values, scale = quantize_rowwise((value * nn.functional.gelu(gate)).unflatten(1, (-1, 128)))
    return fp8.BlockwiseStates(values.flatten(1), scale[..., 0].t().contiguous(), shape)


def norm_and_quantize_rows(self, addends, bias=None):
    """`NormQuantize.forward` without a kernel of ours."""
    total = sum(addends[1:], addends[0])
    normed = nn.functional.layer_norm(total, total.shape[-1:], self.weight, self.bias, self.eps)
    return fp8.RowwiseStates.of(normed), total if bias is None else total + bias


@pytest.mark.parametrize("norms", [(), ("norm1", "norm3")])
@pytest.mark.parametrize(
    "layers", [("ff.net.0.proj", "ff.net.2"), LINEAR, ("attn1.to_qkv", "attn2.to_q", "ff.net.0.proj", "ff.net.2")]
)
def test_a_transformer_block_with_a_blockwise_layer_is_near_the_plain_one(monkeypatch, layers, norms):
    changes = {**FLAT, "block_out_channels": [128], "attention_head_dim": [4]}
    unet, adapters = tiny(changes=changes)
    inputs = example(unet, adapters)
    split = partition.partition(unet, KernelOptions(), inputs.context)
    name = next(name for name in split if "transformer_blocks" in name)
    block = unet.get_submodule(name)
    block.ff.net[2].bias.data.normal_()
    given = []
    with torch.no_grad():
        partition.run_parts(unet, split, inputs, lambda part, x: given.append((part, x)) or split[part](x))
        tensors = dict(given)[name]
        expected = sum(split[name](tensors))
        monkeypatch.setattr(blocks, "blockwise_layer", lambda *_: "ff.net.2")  # of half precision, were it one
        monkeypatch.setattr(blocks.GegluQuantize, "forward", gate_and_quantize_blocks)
        monkeypatch.setattr(torch, "_scaled_mm", dequantized_product)
        monkeypatch.setattr(blocks, "_fits_norm_quantize", lambda *_: True)
        monkeypatch.setattr(blocks.NormQuantize, "forward", norm_and_quantize_rows)
        chosen = tuning.Tuning(norm_quantize=tuning.NormQuantize(1, 1) if norms else None)
        options = KernelOptions(("geglu", "norm_quantize"), fp8_layers=layers, blockwise=True, tuning=chosen)
        eight = partition.partition(unet, options, inputs.context)[name]
        assert type(eight.module.block.ff.net[2]) is BlockwiseFp8Linear
        found = eight.module.block.named_children()
        ours = {child for child, module in found if isinstance(module, blocks.NormQuantize)}
        assert ours == {norm for norm in norms if norm == "norm3" or "attn1.to_qkv" in layers}
        error = difference(sum(eight(tensors)), expected)
    assert 1e-3 < error < 0.05  # the first: it is fp8


def test_a_transformed_weight_is_made_again_when_its_source_has_changed():
    layer = nn.Linear(8, 8)
    calls = []

    def read():
        calls.append(1)
        return layer.weight

    first = weight_transforms.transformed([layer.weight], "rowwise_scale", read)
    assert weight_transforms.transformed([layer.weight], "rowwise_scale", read) is first and len(calls) == 1
    before, place = first.clone(), first.data_ptr()
    with torch.no_grad():
        layer.weight.mul_(2)
    second = weight_transforms.transformed([layer.weight], "rowwise_scale", read)
    assert torch.allclose(second, 2 * before) and len(calls) == 2
    assert second.data_ptr() == place, "a CUDA graph that was captured reads the old one"


def test_a_subpixel_convolution_equals_upsampling_and_convolving():
    torch.manual_seed(0)
    picture, weight = torch.randn(2, 3, 5, 4), torch.randn(6, 3, 3, 3)
    expected = nn.functional.conv2d(nn.functional.interpolate(picture, scale_factor=2.0), weight, padding=1)
    four = nn.functional.conv2d(picture, weight_transforms.subpixel(weight), padding=1).unflatten(1, (2, 2, 6))
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
def test_random_inputs_for_the_check_of_compiled_code_stay_finite_in_fp8():
    unet, adapters = tiny()
    inputs = example(unet, adapters)
    split = partition.partition(unet, KernelOptions(fp8_layers=LINEAR), inputs.context)
    kinds = [
        region for region in regions.find(unet, split, inputs, False) if region.name.startswith("transformerblock")
    ]
    for region in kinds:
        weights = [worker._random(layout, "cpu", product=True) for layout in region.weight_layouts]
        given = [worker._random(layout, "cpu", product=False) for layout in region.inputs]
        eight = [weight.float() for weight in weights if weight.dtype == torch.float8_e4m3fn]
        assert len(eight) == len(LINEAR) and all(weight.abs().max() < 448 for weight in eight)
        with torch.no_grad():
            states, residual = split[region.parts[0]].functional(weights, given)
        assert 0.1 < states.std() < 10 and 0.1 < residual.std() < 10
