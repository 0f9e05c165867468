"""What an engine has drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Drawing:
    """Pictures by their number in the request, calls of the UNet, and times in seconds.

    `steps_s` is from the first step to the last, `decode_s` from there to the decoded pictures.
    """

    images: Mapping[int, Image]
    steps: int
    steps_s: float
    decode_s: float

    @property
    def it_per_s(self) -> float:
        """Calls of the UNet per second."""
        return self.steps / self.steps_s if self.steps_s else 0.0


def joined(parts: Sequence[Drawing]) -> Drawing:
    """The pictures of several drawings, with the sums of their times."""
    images = {number: image for part in parts for number, image in part.images.items()}
    calls, steps_s = sum(part.steps for part in parts), sum(part.steps_s for part in parts)
    return Drawing(images, calls, steps_s, sum(part.decode_s for part in parts))
