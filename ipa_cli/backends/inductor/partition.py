"""A UNet or ControlNet partitioned into pure functions of weights and tensors, and one call of it by these.

Many parts are alike (see `blocks`): `regions` finds out which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ipa_cli.backends.inductor import blocks, weight_transforms
from ipa_cli.backends.inductor.blocks import modules_of_type, resnets
from ipa_cli.backends.inductor.kernel_options import CONVOLUTIONS, LINEAR, KernelOptions
from ipa_cli.unet.inputs import Context, ControlInputs, ControlResiduals, NoiseAndDeep, UNetInputs

Run = Callable[[str, list[Tensor]], Sequence[Tensor]]  # a part's name and inputs to its outputs


class Weight(NamedTuple):
    """Where a part's parameter is found in the UNet: an attribute of one module, or of several, concatenated.

    `transform` is "" for the parameter itself, else one of `weight_transforms.TRANSFORMS`.
    """

    owners: tuple[nn.Module, ...]
    attribute: str
    transform: str = ""

    def read(self) -> Tensor:
        """The parameter as it is now."""
        if self.transform:
            sources = [getattr(owner, self.attribute) for owner in self.owners]
            return weight_transforms.transformed(sources, self.transform, self._plain)
        return self._plain()

    @property
    def versions(self) -> list[int]:
        """Numbers that change when the parameter does."""
        return [weight_transforms.version(getattr(owner, self.attribute)) for owner in self.owners]

    def _plain(self) -> Tensor:
        if len(self.owners) == 1:
            return aligned(getattr(self.owners[0], self.attribute))
        return concat_parameters(self.owners, self.attribute)


@dataclass(frozen=True)
class Part:
    """A function of the UNet, and where its weights are found."""

    name: str
    weights: dict[str, Weight]
    make: Callable[[], nn.Module]
    layer: int = 0  # of cross attention, for transformer blocks

    @cached_property
    def module(self) -> nn.Module:
        """What computes it: a module whose parameters have shapes but no values."""
        return self.make()

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Compute it as PyTorch does."""
        return self.functional([weight.read() for weight in self.weights.values()], inputs)

    def functional(self, weights: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        """The function itself; weights in the order of `weights`."""
        named = dict(zip(self.weights, weights, strict=True))
        return [aligned(out) for out in torch.func.functional_call(self.module, named, tuple(inputs))]


def aligned(tensor: Tensor) -> Tensor:
    """`tensor` in the memory layout that the compiled code expects: channels last for pictures and convolutions."""
    layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return tensor.contiguous(memory_format=layout)


def concat_parameters(owners: Sequence[nn.Module], attribute: str) -> Tensor:
    """Parameters concatenated by rows; the modules' own become views of the result, so that no memory is doubled."""
    pieces: list[Tensor] = [getattr(owner, attribute) for owner in owners]
    first, start = pieces[0], pieces[0].storage_offset()
    together = True
    for piece in pieces:
        together &= piece.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        together &= piece.storage_offset() == start and piece.is_contiguous()
        start += piece.numel()
    if not together:
        whole = torch.cat([piece.detach() for piece in pieces])
        for owner, piece in zip(owners, whole.split([piece.shape[0] for piece in pieces]), strict=True):
            setattr(owner, attribute, nn.Parameter(piece, requires_grad=False))
        return whole
    rows = sum(piece.shape[0] for piece in pieces)
    return first.as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())


def partition(unet: Any, options: KernelOptions, context: Context | None = None) -> dict[str, Part]:
    """All parts of a UNet or ControlNet by name, for contexts like this one; without it, just where weights are."""
    found: dict[str, Part] = {}

    def add(name: str, weights: dict[str, Weight], make: Callable[..., nn.Module], *given: Any, layer: int = 0) -> None:
        found[name] = Part(name, weights, partial(make, *given), layer)

    add("time", _time_weights(unet), blocks.TimeEmbedding, unet)
    if unet.KIND == "unet":
        add("last", _weights(unet, ("conv_norm_out", "conv_out")), blocks.OutputLayer, unet)
    for name, resnet in resnets(unet):
        add(name, _resnet_weights(resnet, options), blocks.ResnetBlock, resnet, options)
    for name, upsampler in modules_of_type(unet, "Upsample2D"):
        if options.fuse_upsample:
            weight = Weight((upsampler.conv,), "weight", "subpixel")
            add(name, {"weight": weight, "bias": Weight((upsampler.conv,), "bias")}, blocks.Upsample, upsampler)
    for name, transformer in modules_of_type(unet, "Transformer2DModel"):
        add(f"{name}.in", _weights(transformer, ("norm", "proj_in")), blocks.TransformerInput, transformer)
        add(f"{name}.out", _weights(transformer, ("proj_out",)), blocks.TransformerOutput, transformer)
        for number, block in enumerate(transformer.transformer_blocks):
            given, layer = (block, context), block.attn2.processor.layer
            own = f"{name}.transformer_blocks.{number}"
            add(own, _block_weights(block, options), blocks.TransformerBlock, *given, layer, options, layer=layer)
    return found


def run_parts(
    network: Any, parts: Mapping[str, Part], inputs: UNetInputs | ControlInputs, run: Run
) -> Tensor | NoiseAndDeep | ControlResiduals:
    """One call of `network` with `run` for every part; what is in no part are single convolutions.

    A UNet gives noise, (B, 4, h, w), and its deep states if asked to, a ControlNet its residuals.
    """
    call = _Call(network, parts, inputs, run)
    first = network.conv_in(inputs.sample)
    if isinstance(inputs, ControlInputs):
        picture, skips = call.down(first + inputs.hint)
        return network.residuals(picture, skips, inputs.scale)
    deep, control, blocks = inputs.deep, inputs.control, list(network.up_blocks.named_children())
    states = None if deep is None else deep.states
    picture, skips = call.down(first) if states is None else (states, call.first(first))
    if control:  # sums between the parts, so that one graph serves with them and without
        skips = [skip + residual for skip, residual in zip(skips, control.down, strict=states is None)]
        picture = picture + control.mid if states is None else picture
    if states is None:
        picture = call.up(picture, skips, blocks[:-1])
    noise = run("last", [call.up(picture, skips, blocks[-1:])])[0]
    return NoiseAndDeep(noise, picture) if deep is not None and states is None else noise


class _Call:
    """The blocks of one call, by their parts."""

    def __init__(self, network: Any, parts: Mapping[str, Part], inputs: UNetInputs | ControlInputs, run: Run):
        self._network, self._parts, self._context, self._run = network, parts, inputs.context, run
        self._scale = padded_scale(inputs.context.scale)
        added, timestep = inputs.added, inputs.timestep.float()
        times = [timestep, added.time_ids, added.text_embeds] if added else [timestep.expand(len(inputs.sample))]
        if isinstance(inputs, ControlInputs) and inputs.kind is not None:
            times.append(inputs.kind)
        widths = [resnet.time_emb_proj.out_features for _, resnet in resnets(network)]
        shift = run("time", times)[0].split(widths, 1)
        self._shifts = {name: part.contiguous() for (name, _), part in zip(resnets(network), shift, strict=True)}

    def _resnet(self, name: str, *pictures: Tensor) -> Tensor:
        return self._run(name, [*pictures, self._shifts[name]])[0]

    def _transformer(self, name: str, picture: Tensor) -> Tensor:
        context = self._context
        states, residual = self._run(f"{name}.in", [picture])
        for number in range(len(self._network.get_submodule(name).transformer_blocks)):
            block = f"{name}.transformer_blocks.{number}"
            layer = self._parts[block].layer
            rows = (context.text, *context.regions, *context.image, *context.mask, *context.share)
            tokens = [states[layer] for states in rows]
            weight = [self._scale[layer]] if context.image else []
            states, residual = self._run(block, [states, residual, *tokens, *weight])
        as_pictures = [x.unflatten(1, picture.shape[2:]).permute(0, 3, 1, 2) for x in (states, residual)]
        return self._run(f"{name}.out", [*as_pictures, picture])[0]

    def down(self, picture: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The way down and the middle: the last states, and those of the skip connections."""
        network, skips = self._network, [picture]
        for name, block in network.down_blocks.named_children():
            skips += self._block_down(name, block, skips[-1])
            picture = skips[-1]
            for downsampler in block.downsamplers or ():
                picture = downsampler(picture)
                skips.append(picture)
        picture = self._resnet("mid_block.resnets.0", picture)
        for number in range(len(network.mid_block.attentions)):
            picture = self._transformer(f"mid_block.attentions.{number}", picture)
            picture = self._resnet(f"mid_block.resnets.{number + 1}", picture)
        return picture, skips

    def first(self, picture: Tensor) -> list[Tensor]:
        """The states of the skip connections that the first block down makes."""
        name, block = next(self._network.down_blocks.named_children())
        return [picture, *self._block_down(name, block, picture)]

    def _block_down(self, name: str, block: Any, picture: Tensor) -> list[Tensor]:
        found = []
        for number in range(len(block.resnets)):
            picture = self._resnet(f"down_blocks.{name}.resnets.{number}", picture)
            if hasattr(block, "attentions"):
                picture = self._transformer(f"down_blocks.{name}.attentions.{number}", picture)
            found.append(picture)
        return found

    def up(self, picture: Tensor, skips: list[Tensor], of: Sequence[tuple[str, Any]]) -> Tensor:
        """The way up through some blocks, which take their skip connections from the end."""
        for name, block in of:
            for number in range(len(block.resnets)):
                picture = self._resnet(f"up_blocks.{name}.resnets.{number}", picture, skips.pop())
                if hasattr(block, "attentions"):
                    picture = self._transformer(f"up_blocks.{name}.attentions.{number}", picture)
            for number, upsampler in enumerate(block.upsamplers or ()):
                size, part = tuple(skips[-1].shape[2:]), f"up_blocks.{name}.upsamplers.{number}"
                doubled = part in self._parts and size == (2 * picture.shape[2], 2 * picture.shape[3])
                picture = self._run(part, [picture])[0] if doubled else upsampler(picture, size)
        return picture


def padded_scale(scale: Tensor) -> Tensor:
    """The scale by layer, (layers, adapters), padded so that each layer begins on 16 bytes, as kernels need it."""
    adapters, layers = scale.shape
    padded = scale.new_zeros(layers, -(-adapters // 4) * 4)
    padded[:, :adapters] = scale.t()
    return padded


def _weights(module: nn.Module, children: Sequence[str] = ("",)) -> dict[str, Weight]:
    """Where the parameters of a copy of `module`, or of these children alone, are found, by their names in it."""
    return {
        ".".join(filter(None, (child, name, attribute))): Weight((part,), attribute)
        for child in children
        for name, part in module.get_submodule(child).named_modules()
        for attribute, value in part._parameters.items()
        if value is not None
    }


def _time_weights(unet: Any) -> dict[str, Weight]:
    pooled = ("add_embedding",) if unet.config.addition_embed_type == "text_time" else ()
    projections = tuple(resnet.time_emb_proj for _, resnet in resnets(unet))
    shifts = {f"shifts.{attribute}": Weight(projections, attribute) for attribute in ("weight", "bias")}
    return {**_weights(unet, ("time_embedding", *pooled)), **shifts}


def _resnet_weights(resnet: Any, options: KernelOptions) -> dict[str, Weight]:
    """Those of a residual block, without its time embedding's."""
    found = {f"resnet.{k}": v for k, v in _weights(resnet).items() if not k.startswith("time_emb_proj.")}
    for name in CONVOLUTIONS:
        if blocks.fits_fp8_conv(resnet, name, options):
            plain = found[f"resnet.{name}.weight"]
            found[f"resnet.{name}.weight"] = plain._replace(transform="conv")
            found[f"resnet.{name}.weight_scale"] = plain._replace(transform="conv_scale")
    return found


def _block_weights(block: Any, options: KernelOptions) -> dict[str, Weight]:
    """Those of a transformer block: queries, keys and values in one, without the text's keys and values."""
    left_out = ("attn1.to_q.", "attn1.to_k.", "attn1.to_v.", "attn2.to_k.", "attn2.to_v.")
    found = {f"block.{k}": v for k, v in _weights(block).items() if not k.startswith(left_out)}
    found["block.attn1.to_qkv.weight"] = Weight((block.attn1.to_q, block.attn1.to_k, block.attn1.to_v), "weight")
    for name in (name for name in options.fp8_layers if name in LINEAR):
        plain = found[f"block.{name}.weight"]
        kind = "blockwise" if name == blocks.blockwise_layer(block, options) else "rowwise"
        found[f"block.{name}.weight"] = plain._replace(transform=kind)
        found[f"block.{name}.weight_scale"] = plain._replace(transform=f"{kind}_scale")
    return found
