"""Steps that keep the deep part of the UNet from one before: DeepCache, https://arxiv.org/abs/2312.00858."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.backends.base import Denoiser
    from ipa_cli.unet.inputs import UNetInputs


def fresh(every: int, kinds: Sequence[Hashable]) -> list[bool]:
    """Which steps compute everything: one in `every`, and each that is of another kind than the one before."""
    found: list[bool] = []
    since = 0
    for step, kind in enumerate(kinds):
        new = since in (0, every) or kind != kinds[step - 1]
        found.append(new)
        since = 1 if new else since + 1
    return found


class Calls:
    """Calls of a UNet in the order of the steps, `kinds` of which must not share their deep states.

    Those are the adapters that act, and whether there is guidance, which doubles the batch.
    """

    def __init__(self, every: int, kinds: Sequence[Hashable]):
        self._keeps, self._fresh = every > 1, fresh(every, kinds)
        self._deep: Tensor | None = None

    def __call__(self, unet: Denoiser, given: UNetInputs, step: int) -> Tensor:
        """The noise."""
        from ipa_cli.unet.inputs import DeepStates

        noise: Tensor
        if not self._keeps:
            noise = unet(given)
        elif self._fresh[step]:
            noise, self._deep = unet(replace(given, deep=DeepStates()))
        else:
            noise = unet(replace(given, deep=DeepStates(self._deep)))
        return noise
