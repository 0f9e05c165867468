"""The parts of a UNet that are compiled, each as a pure function of its weights and inputs.

A UNet repeats itself: the 70 transformer blocks and 17 residual blocks of SDXL are a dozen kinds. Each kind is
traced once with its weights as inputs, so that all modules of the kind share one piece of code, no weight is
ever copied into it, and a changed weight counts at once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ipa_cli.attention import Context, CrossAttention, UNetInputs, call_unet

CLASSES = {
    "transformers": ("ResnetBlock2D", "Transformer2DModel"),
    "blocks": ("ResnetBlock2D", "BasicTransformerBlock"),
}


class Layout(NamedTuple):
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """The layout of `tensor`."""
        return cls(tuple(tensor.shape), tensor.stride(), str(tensor.dtype).removeprefix("torch."))


class Region(NamedTuple):
    """One kind of module, and every place of the UNet where it stands.

    Its function takes the weights and then the other inputs, the picture's states first.
    """

    name: str
    modules: tuple[str, ...]
    weights: tuple[str, ...]  # names of parameters
    weight_layouts: tuple[Layout, ...]
    inputs: tuple[Layout, ...]


@dataclass(frozen=True)
class Place:
    """One module that stands in a region: where it is and which cross-attention layers it holds."""

    name: str
    module: nn.Module
    layers: range

    def arguments(self, hidden: Tensor, temb: Tensor | None, context: Context | None) -> list[Tensor]:
        """The tensors that the region's function takes after the weights; `context` has its scale as `rows`."""
        hidden = aligned(hidden)
        if not self.layers:
            assert temb is not None
            return [hidden, temb.contiguous()]
        assert context is not None
        own = slice(self.layers.start, self.layers.stop)
        tokens = [
            tensor.contiguous() for states in (context.text, *context.image, *context.mask) for tensor in states[own]
        ]
        scale = [context.scale[own, : len(context.image)]] if context.image else []
        return [hidden, *tokens, *scale]

    def parameters(self, names: Sequence[str]) -> list[Tensor]:
        """The weights called `names`, as they are now."""
        return [aligned(self.module.get_parameter(name)) for name in names]


def places(unet: nn.Module, granularity: str) -> list[Place]:
    """The modules of `unet` that belong to a region."""
    found = []
    for name, module in unet.named_modules():
        if type(module).__name__ in CLASSES[granularity]:
            layers = [
                part.processor.layer
                for part in module.modules()
                if isinstance(getattr(part, "processor", None), CrossAttention)
            ]
            found.append(Place(name, module, range(min(layers), max(layers) + 1) if layers else range(0)))
    return found


def aligned(tensor: Tensor) -> Tensor:
    """The memory layout that the compiled code takes for granted: channels last for pictures and convolutions."""
    layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return tensor.contiguous(memory_format=layout)


def rows(context: Context) -> Context:
    """The scale by layer, (layers, adapters), each layer's beginning on 16 bytes, as kernels want it."""
    adapters, layers = context.scale.shape
    scale = context.scale.new_zeros(layers, -(-adapters // 4) * 4)
    scale[:, :adapters] = context.scale.t()
    return context._replace(scale=scale)


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules run other functions for a while; a forward that a hook had put there comes back."""
    hooked = {module: vars(module)["forward"] for module in forwards if "forward" in vars(module)}
    for module, forward in forwards.items():
        module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in forwards:
            del module.forward
        for module, forward in hooked.items():
            module.forward = forward  # type: ignore[method-assign]


def forward(place: Place, run: Callable[[list[Tensor]], Tensor]) -> Callable[..., Any]:
    """What `place.module.forward` is replaced with: the call's tensors are handed to `run`."""
    answer = (lambda out: (out,)) if type(place.module).__name__ == "Transformer2DModel" else (lambda out: out)

    def replacement(hidden: Tensor, temb: Tensor | None = None, **given: Any) -> Any:
        return answer(run(place.arguments(hidden, temb, given.get("encoder_hidden_states"))))

    return replacement


def find(unet: Any, example: UNetInputs, granularity: str, dynamic: bool) -> list[Region]:
    """Sort the parts of `unet` into regions by what they do and take when it is called with `example`."""
    seen: dict[str, list[Layout]] = {}
    modules = {place.name: place for place in places(unet, granularity)}

    def record(place: Place) -> Callable[..., Any]:
        original = place.module.forward

        def recording(hidden: Tensor, temb: Tensor | None = None, **given: Any) -> Any:
            context = given.get("encoder_hidden_states")
            arguments = place.arguments(hidden, temb, rows(context) if context else None)
            seen[place.name] = [Layout.of(tensor) for tensor in arguments]
            return original(hidden, temb, **given) if temb is not None else original(hidden, **given)

        return recording

    with torch.no_grad(), replaced({place.module: record(place) for place in modules.values()}):
        call_unet(unet, example)
    kinds: dict[tuple, list[str]] = {}
    for name, inputs in seen.items():
        first = inputs[0].shape
        size = (first[1] if len(first) == 4 else first[2]) if dynamic else inputs[0]
        kinds.setdefault((_fingerprint(modules[name].module), size, *inputs[1:]), []).append(name)
    regions = []
    for number, names in enumerate(kinds.values()):
        place = modules[names[0]]
        weights = tuple(name for name, _ in place.module.named_parameters() if not _computed_before(name))
        layouts = tuple(Layout.of(weight) for weight in place.parameters(weights))
        kind = "transformer" if place.layers else "resnet"
        regions.append(Region(f"{kind}-{number}", tuple(names), weights, layouts, tuple(seen[names[0]])))
    return sorted(regions, key=lambda region: -sum(math.prod(layout.shape) for layout in region.weight_layouts))


def export(unet: Any, region: Region, adapters: int, granularity: str, sizes: Sequence[int] | None) -> Any:
    """Trace a region; `sizes` are the smallest and largest height or width of its picture, None for a fixed one."""
    place = next(place for place in places(unet, granularity) if place.name == region.modules[0])
    weights = place.parameters(region.weights)
    inputs = [
        torch.empty_strided(shape, stride, dtype=getattr(torch, dtype), device=weights[0].device)
        for shape, stride, dtype in region.inputs
    ]
    shapes: Any = None
    if sizes is not None:
        low, high = sizes
        if inputs[0].ndim == 4:
            moving = {2: torch.export.Dim("height", min=low, max=high), 3: torch.export.Dim("width", min=low, max=high)}
        else:
            moving = {1: torch.export.Dim("pixels", min=low * low, max=high * high)}
        shapes = ([None] * len(weights), [moving, *[None] * (len(inputs) - 1)])
    with torch.no_grad():
        return torch.export.export(
            _Pure(place, region.weights, adapters), (weights, inputs), dynamic_shapes=shapes, strict=False
        )


class _Pure(nn.Module):
    """A module without weights of its own."""

    def __init__(self, place: Place, weights: Sequence[str], adapters: int):
        super().__init__()
        memo: dict[int, Any] = {
            id(weight): nn.Parameter(weight.to("meta"), requires_grad=False) for weight in place.module.parameters()
        }
        module = copy.deepcopy(place.module, memo)
        for part in module.modules():
            processor: Any = getattr(part, "processor", None)
            if isinstance(processor, CrossAttention):
                part.processor = CrossAttention(processor.layer - place.layers.start)  # type: ignore[assignment]
        self.hidden = (module,)  # in a tuple, so that its parameters are not taken for this module's
        self.names, self.layers, self.adapters = weights, len(place.layers), adapters

    def forward(self, weights: list[Tensor], inputs: list[Tensor]) -> Tensor:
        module, count, named = self.hidden[0], self.layers, dict(zip(self.names, weights, strict=True))
        if not count:
            return aligned(torch.func.functional_call(module, named, tuple(inputs)))
        hidden, *rest = inputs
        text = rest[:count]
        scale = rest.pop().t() if self.adapters else hidden.new_zeros(0, count)
        by_layer = [rest[start:][:count] for start in range(count, len(rest), count)]
        image, mask = by_layer[: self.adapters], by_layer[self.adapters :]
        given: dict[str, Any] = {"encoder_hidden_states": Context(text, image, scale, mask)}
        if type(module).__name__ == "Transformer2DModel":
            given["return_dict"] = False
            return aligned(torch.func.functional_call(module, named, (hidden,), given)[0])
        return aligned(torch.func.functional_call(module, named, (hidden,), given))


def _computed_before(parameter: str) -> bool:
    """Whether only `attention.project` uses it: the products for the text's keys and values."""
    return parameter.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))


def _fingerprint(module: nn.Module) -> tuple:
    """All that tells what a module computes, apart from the values of its weights."""
    plain = (bool, int, float, str, type(None), tuple)
    settings = tuple(
        (
            name,
            type(part).__name__,
            *((key, value) for key, value in sorted(vars(part).items()) if type(value) in plain),
        )
        for name, part in module.named_modules()
    )
    return settings, tuple((name, tuple(weight.shape), weight.dtype) for name, weight in module.named_parameters())
