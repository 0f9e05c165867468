"""Which parts of a UNet are alike, and their traced programs.

A UNet repeats itself: the 70 transformer blocks and 17 residual blocks of SDXL are a dozen kinds. Each kind is traced
once with its weights as inputs, so that all of the kind share one piece of code, no weight is ever copied into it,
and a changed weight counts at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ipa_cli.backends.inductor.partition import Part, aligned, run_parts
from ipa_cli.errors import IpaError
from ipa_cli.unet.inputs import ControlInputs, UNetInputs, tensors

TOLERANCE = 0.1  # between the UNet and its parts in bfloat16; a part left out makes far more


class Layout(NamedTuple):
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """The layout of `tensor`."""
        return cls(tuple(tensor.shape), tensor.stride(), str(tensor.dtype).removeprefix("torch."))

    @classmethod
    def from_json(cls, layout: Sequence) -> Layout:
        """A layout as JSON has it."""
        shape, stride, dtype = layout
        return cls(tuple(shape), tuple(stride), dtype)

    def of_any_size(self) -> tuple:
        """The same without the height and width of a picture."""
        if len(self.shape) in (3, 4):
            return (self.shape[0], self.shape[1 if len(self.shape) == 4 else 2], len(self.shape), self.dtype)
        return tuple(self)

    def of_any_text(self) -> tuple:
        """The same of keys and values, (2, B, heads, tokens, d), without the number of tokens."""
        return (*self.shape[:3], self.shape[4], self.dtype)


class Region(NamedTuple):
    """One kind of part, and the names of all that are of the kind. Its function takes the weights, then the inputs."""

    name: str
    parts: tuple[str, ...]
    weight_layouts: tuple[Layout, ...]
    inputs: tuple[Layout, ...]

    @property
    def text(self) -> int | None:
        """Which input holds the keys and values of the text: the first with five axes."""
        return next((number for number, (shape, *_) in enumerate(self.inputs) if len(shape) == 5), None)


def find(unet: Any, parts: Mapping[str, Part], example: UNetInputs | ControlInputs, dynamic: bool) -> list[Region]:
    """Sort the parts of `unet` into regions by what they do and take when it is called with `example`.

    Raises IpaError when the parts together do not do what `unet` does.
    """
    seen: dict[str, tuple[Layout, ...]] = {}

    def record(name: str, inputs: list[Tensor]) -> list[Tensor]:
        inputs = [aligned(tensor) for tensor in inputs]
        seen[name] = tuple(Layout.of(tensor) for tensor in inputs)
        return parts[name](inputs)

    with torch.no_grad():
        got, expected = (_flat(made) for made in (run_parts(unet, parts, example, record), unet(example)))
    if not (got - expected).norm() <= TOLERANCE * expected.norm():
        raise IpaError("this UNet has parts that inductor does not know", "use --backend eager")
    kinds: dict[tuple, list[str]] = {}
    for name, layouts in seen.items():
        size = tuple(layout.of_any_size() for layout in layouts) if dynamic else layouts
        kinds.setdefault((_fingerprint(parts[name].module), size), []).append(name)
    regions = []
    for number, names in enumerate(kinds.values()):
        first = parts[names[0]]
        weights = tuple(Layout.of(weight.read()) for weight in first.weights.values())
        kind = type(first.module).__name__.lower()
        regions.append(Region(f"{kind}-{number}", tuple(names), weights, seen[names[0]]))
    return sorted(regions, key=lambda region: -len(region.weight_layouts))  # what takes longest to compile first


def _flat(made: Any) -> Tensor:
    """All numbers that a network gives."""
    return torch.cat([tensor.flatten().float() for tensor in tensors(made)])


def export(part: Part, region: Region, sizes: Sequence[int] | None, text: Sequence[int] | None = None) -> Any:
    """Trace a region.

    sizes: the smallest and largest height or width of its picture, None for a fixed one. text: the smallest and largest
    number of text tokens, None for a fixed one.
    """
    weights = [weight.read() for weight in part.weights.values()]
    inputs = [
        torch.empty_strided(shape, stride, dtype=getattr(torch, dtype), device=weights[0].device)
        for shape, stride, dtype in region.inputs
    ]
    moving: dict[int, Any] = {}
    if sizes is not None:
        low, high = sizes
        picture = {2: torch.export.Dim("height", min=low, max=high), 3: torch.export.Dim("width", min=low, max=high)}
        moving = {4: picture, 3: {1: torch.export.Dim("pixels", min=low * low, max=high * high)}}
    each: list[Any] = [moving.get(tensor.ndim) for tensor in inputs]
    if text is not None and region.text is not None:
        each[region.text] = {3: torch.export.Dim("text", min=text[0], max=text[1])}
    shapes: Any = ([None] * len(weights), each) if any(each) else None
    with torch.no_grad():
        return torch.export.export(_Functional(part), (weights, inputs), dynamic_shapes=shapes, strict=False)


class _Functional(nn.Module):
    """A module without weights of its own."""

    def __init__(self, part: Part):
        super().__init__()
        self.part = part  # no module itself, so that its parameters are not taken for this module's
        _ = part.module  # made before it is traced

    def forward(self, weights: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
        return self.part.functional(weights, inputs)


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
