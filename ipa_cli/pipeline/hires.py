"""A second pass over a picture, enlarged: what is drawn in it, and what it begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipa_cli.config import MAX_SIDE, Settings
from ipa_cli.config.hires import UPSCALERS, size_of
from ipa_cli.errors import UsageError
from ipa_cli.images import init_image, proportions

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ipa_cli.pipeline.init_image import Init
    from ipa_cli.result import Reporter


@dataclass(frozen=True)
class Hires:
    """A second pass as it is asked for: `size` is a factor or width x height, `steps` are those that it takes."""

    size: str
    strength: float
    steps: int | None
    upscaler: str

    def size_over(self, width: int, height: int) -> tuple[int, int]:
        """The size that it draws at, over a picture of this one."""
        return size_of(self.size, width, height)

    def steps_over(self, steps: int) -> tuple[int, int]:
        """All steps of its schedule, and how many of them it takes, where the first pass has so many.

        Without steps of its own those of img2img; with them as many as A1111's `hr_second_pass_steps` and ComfyUI's
        KSampler take, from the part of a longer schedule that the strength leaves.
        """
        if self.steps is None:
            return steps, min(int(steps * self.strength), steps)
        return max(self.steps, int(self.steps / self.strength)) if self.strength else 0, self.steps


def make(settings: Settings) -> Hires | None:
    """The second pass that the settings ask for."""
    if settings.hires is None:
        return None
    return Hires(settings.hires, settings.hires_strength, settings.hires_steps, settings.hires_upscaler)


def sizes(hires: Hires | None, width: int, height: int) -> list[tuple[int, int]]:
    """The size of each pass over a picture of this size."""
    first = (width, height)
    return [first] if hires is None else [first, hires.size_over(*first)]


def remark(settings: Settings, reporter: Reporter) -> None:
    """Say so where a setting has no effect."""
    if settings.hires is None and settings.given("hires_strength", "hires_steps", "hires_upscaler"):
        reporter.note("the settings of a hires pass have no effect without --hires")


def check(hires: Hires | None, width: int, height: int, steps: int, init: Init | None) -> None:
    """Raise UsageError for a second pass that cannot be drawn over a picture of this size."""
    if hires is None:
        return
    size, (_, taken) = hires.size_over(width, height), hires.steps_over(steps)
    if size[0] < width or size[1] < height:
        raise UsageError(
            f"the hires pass would be {size[0]}x{size[1]}, smaller than the picture of {width}x{height}",
            "give --hires a factor such as 1.5, or the first picture a smaller --size",
        )
    if max(size) > MAX_SIDE:
        raise UsageError(
            f"the hires pass would be {size[0]}x{size[1]}: at most {MAX_SIDE} pixels a side", "choose a smaller --hires"
        )
    if taken < 1 or not hires.strength:
        raise UsageError(
            f"a hires strength of {hires.strength:g} leaves none of {steps} step{'s' * (steps > 1)}",
            "choose a larger --hires-strength, or say --hires-steps",
        )
    if init is not None and init.picture.area is not None:
        raise UsageError(
            "a hires pass draws over the whole picture, and a mask or border is given for a part of it",
            "redraw the part first, then enlarge: --init-image part.png --size 1536x1536 --strength 0.4",
        )


def enlarged_latents(latents: Tensor, size: tuple[int, int], upscaler: str) -> Tensor:
    """Latents (B, channels, h, w) at another size, (width, height): their middle where the proportions differ."""
    import torch.nn.functional as F

    how, (width, height) = UPSCALERS[upscaler], size
    rows, columns = latents.shape[-2:]
    if proportions.differ((width, height), (columns, rows)):
        kept = min(rows, round(columns * height / width)), min(columns, round(rows * width / height))
        top, left = (rows - kept[0]) // 2, (columns - kept[1]) // 2
        latents = latents[..., top : top + kept[0], left : left + kept[1]]
    return F.interpolate(latents.float(), (height, width), mode=how.mode, antialias=how.antialias).to(latents.dtype)


def enlarged_pictures(pictures: Sequence[Image], size: tuple[int, int], upscaler: str) -> list[Image]:
    """Pictures at another size, as `--init-image` brings one to it."""
    from PIL import Image

    how: Any = Image.Resampling[UPSCALERS[upscaler].mode.upper()]
    return [init_image.fitted(picture, size, how) for picture in pictures]
