"""What an engine has drawn, and what a device still works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from ipa_cli.engine.ready import Ready
    from ipa_cli.hardware.timing import StepClock


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


@dataclass(frozen=True)
class Begun:
    """Pictures whose steps and decoding a GPU has yet to do, or not; drawn by what is `ready`.

    `steps` has the clock of each pass with the calls of the UNet, `decoding` what lies between and behind them.
    """

    images: Mapping[int, Callable[[], Image]]
    ready: Ready
    steps: tuple[tuple[int, StepClock], ...]
    decoding: tuple[StepClock, ...]

    def drawing(self) -> Drawing:
        """The pictures, once the device has them; any thread may ask. Raises BrokenPicture."""
        images = {number: image() for number, image in self.images.items()}
        seconds = sum(clock.seconds for _, clock in self.steps)
        return Drawing(
            images, sum(calls for calls, _ in self.steps), seconds, sum(clock.seconds for clock in self.decoding)
        )


def joined(parts: Sequence[Drawing]) -> Drawing:
    """The pictures of several drawings, with the sums of their times."""
    images = {number: image for part in parts for number, image in part.images.items()}
    calls, steps_s = sum(part.steps for part in parts), sum(part.steps_s for part in parts)
    return Drawing(images, calls, steps_s, sum(part.decode_s for part in parts))
