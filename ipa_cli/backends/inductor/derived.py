"""Weights in another form than the UNet has them, made once and again only when the UNet's own have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ipa_cli.backends.inductor.fp8 import quantised, quantised_by_squares, quantised_taps

_kept: Any = WeakIdKeyDictionary()  # first source -> form -> (state of all sources, what was made of them)


def four_phases(weight: Tensor) -> Tensor:
    """What convolves a small picture to the four kinds of pixels of one enlarged twofold and convolved by `weight`.

    weight: (out, in, 3, 3); the result: (4 * out, in, 2, 2), by row and column of the pixel.
    """

    def halves(wide: Tensor, dim: int) -> list[Tensor]:
        first, middle, last = wide.unbind(dim)
        return [torch.stack([first, middle + last], dim), torch.stack([first + middle, last], dim)]

    phases = [both for rows in halves(weight.float(), 2) for both in halves(rows, 3)]
    return torch.cat(phases).to(weight.dtype).contiguous(memory_format=torch.channels_last)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "eight": lambda weight: quantised(weight)[0],
    "size": lambda weight: quantised(weight)[1].t().contiguous(),
    "squares": lambda weight: quantised_by_squares(weight)[0],
    "square_size": lambda weight: quantised_by_squares(weight)[1],
    "taps": lambda weight: quantised_taps(weight)[0],
    "taps_size": lambda weight: quantised_taps(weight)[1],
    "phases": four_phases,
}


def kept(sources: Sequence[Tensor], form: str, read: Callable[[], Tensor]) -> Tensor:
    """What `form` makes of the weight that `read` puts together from `sources`."""
    state = [(source.data_ptr(), 0 if source.is_inference() else source._version) for source in sources]
    forms = _kept.setdefault(sources[0], {})
    if form not in forms or forms[form][0] != state:
        forms[form] = state, FORMS[form](read().detach())
    return forms[form][1]
