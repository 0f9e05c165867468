"""Weights in another form than the UNet has them, made once and again only when the UNet's own have changed.

They stay where they are in memory: CUDA graphs remember addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ipa_cli.backends.inductor.fp8 import quantize_blockwise, quantize_conv, quantize_rowwise
from ipa_cli.networks.common import subpixel

_cache: Any = WeakIdKeyDictionary()  # first source -> transform -> (versions of all sources, the transformed weight)


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "rowwise": lambda weight: quantize_rowwise(weight)[0],
    "rowwise_scale": lambda weight: quantize_rowwise(weight)[1].t().contiguous(),
    "blockwise": lambda weight: quantize_blockwise(weight)[0],
    "blockwise_scale": lambda weight: quantize_blockwise(weight)[1],
    "conv": lambda weight: quantize_conv(weight)[0],
    "conv_scale": lambda weight: quantize_conv(weight)[1],
    "subpixel": subpixel,
}


def version(weight: Tensor) -> int:
    """A number that changes when a weight is changed in place."""
    return 0 if weight.is_inference() else weight._version


def transformed(sources: Sequence[Tensor], transform: str, read: Callable[[], Tensor]) -> Tensor:
    """The result of a transform for the weight that `read` puts together from `sources`."""
    state = [(source.data_ptr(), version(source)) for source in sources]
    known = _cache.setdefault(sources[0], {})
    before, made = known.get(transform, (None, None))
    if before != state:
        new = TRANSFORMS[transform](read().detach())
        if made is not None and (made.device, made.shape) == (new.device, new.shape):
            new = made.copy_(new)
        known[transform] = state, new
    return known[transform][1]
