"""The picture that drawing begins with, from settings: checked, brought to size, and how much of it is redrawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ipa_cli.config import Settings, padding
from ipa_cli.config.checks import MAX_SIDE, MIN_SIDE, SIDE_STEP
from ipa_cli.config.padding import Padding
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.images import init_image
from ipa_cli.images.init_image import InitImage
from ipa_cli.images.reference import Reference
from ipa_cli.models.schedulers import Sampling
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    from ipa_cli.models.plan import Plan

STRENGTH = 0.6  # unless given; with a mask or a border all of the area is redrawn
LARGER = 4  # times the pixels that the model draws by itself: a picture with more is scaled down unless a size is given


@dataclass(frozen=True)
class Loaded:
    """The picture and its mask as they were read."""

    image: Reference
    mask: Reference | None = None


@dataclass(frozen=True)
class Init:
    """A picture to begin with at the size of the request, of which `strength` says how much noise covers it.

    With strength 1 where only an area is redrawn, drawing begins with noise alone, as in diffusers.
    """

    picture: InitImage
    strength: float
    loaded: Loaded = field(compare=False)
    pad: str | None = None
    mask_blur: float = 0.0

    @property
    def from_noise(self) -> bool:
        """Whether the first latents have nothing of the picture."""
        return self.picture.area is not None and self.strength == 1


def check_given(settings: Settings, members: Mapping[tuple[str, bool], Sequence[str]], reporter: Reporter) -> None:
    """Raise UsageError for a mask or a border without a picture, and for names of several.

    `members` has what each name, with whether it is a mask, stands for.
    """
    for flag, name, as_mask in (
        ("--init-image", settings.init_image, False),
        ("--inpaint-mask", settings.inpaint_mask, True),
    ):
        if name is not None and len(several := members[name, as_mask]) > 1:
            raise UsageError(f"{flag} {name} stands for {len(several)} pictures", f"name one: {several[0]}")
    if settings.init_image is None:
        for flag, value in (("--inpaint-mask", settings.inpaint_mask), ("--pad", settings.pad)):
            if value is not None:
                raise UsageError(f"{flag} is given and no picture to begin with", "name it with --init-image")
    remark(settings, reporter)


def remark(settings: Settings, reporter: Reporter) -> None:
    """Say so where a setting has no effect."""
    if settings.init_image is None and settings.given("strength"):
        reporter.note("the strength has no effect without --init-image")
    if settings.given("mask_blur") and settings.inpaint_mask is None and settings.pad is None:
        reporter.note("the mask blur has no effect without --inpaint-mask or --pad")


def load(image: Sequence[Reference], mask: Sequence[Reference], reporter: Reporter) -> Loaded | None:
    """The picture and the mask, each at most one; None without a picture.

    Raises IpaError for a mask that is dark or has other proportions.
    """
    for area in mask:
        init_image.check_mask(area, image[0])
        if area.image.getextrema()[0] == 255:
            reporter.note(f"the inpaint mask {area.source} is white everywhere: the whole picture is redrawn")
    return Loaded(image[0], mask[0] if mask else None) if image else None


def size(settings: Settings, plan: Plan, loaded: Loaded) -> tuple[int, int]:
    """Width and height of the picture: as set, else those of the picture to begin with, with its border.

    Raises UsageError for sides out of range.
    """
    border, image = _border(settings.pad), loaded.image
    native = plan.defaults["width"] * plan.defaults["height"]
    width, height = init_image.size_of(image, border, LARGER * native, MAX_SIDE)
    if settings.width is not None:
        width = settings.width
        height = _other(width - border.width, image.height / image.width) + border.height
    if settings.height is not None:
        height = settings.height
        width = settings.width or _other(height - border.height, image.width / image.height) + border.width
    inner = width - border.width, height - border.height
    if min(inner) < MIN_SIDE:
        raise UsageError(
            f"the init image would be {inner[0]}x{inner[1]}: at least {MIN_SIDE} pixels a side",
            f"choose a larger --size{'; it includes the border of --pad' if any(border) else ''}",
        )
    if max(width, height) > MAX_SIDE:
        raise UsageError(f"the picture would be {width}x{height}: at most {MAX_SIDE} pixels a side", "choose a --size")
    return width, height


def note_size(made: Init, reporter: Reporter) -> None:
    """Say so where the picture to begin with is scaled or cut."""
    given, border = made.loaded.image, _border(made.pad)
    inner = made.picture.image.width - border.width, made.picture.image.height - border.height
    if (given.width, given.height) != inner:
        spare = given.width - inner[0], given.height - inner[1]
        cut = all(0 <= one < SIDE_STEP for one in spare)
        how = "cut to multiples of 8" if cut else "scaled, and cut where the proportions differ; --size chooses another"
        reporter.note(f"the init image, {given.width}x{given.height}, is drawn over at {inner[0]}x{inner[1]}: {how}")


def make(settings: Settings, plan: Plan, loaded: Loaded, wanted: tuple[int, int]) -> Init:
    """The picture at the size that is drawn. Raises IpaError for a mask with next to nothing in it."""
    picture = init_image.make(loaded.image, loaded.mask, wanted, _border(settings.pad), settings.mask_blur)
    if picture.area is not None:
        import numpy as np

        factor, area = plan.architecture.latent_factor, np.asarray(picture.area)
        if area.min() == 255 and not has_mask_inputs(plan):
            picture = init_image.make(loaded.image, None, wanted, _border(settings.pad), 0)
        elif not (area[::factor, ::factor] >= init_image.HALF).any():
            raise IpaError(
                f"the white of the inpaint mask is too small at {wanted[0]}x{wanted[1]}",
                f"it must cover some square of {factor} pixels, after --mask-blur",
            )
    strength = settings.strength
    if strength is None:
        strength = STRENGTH if picture.area is None else 1.0
    return Init(picture, strength, loaded, settings.pad, settings.mask_blur)


def steps_taken(made: Init, steps: int) -> int:
    """How many of the steps are gone through, as `get_timesteps` of diffusers' pipelines counts them.

    Raises UsageError where none is left.
    """
    taken = min(int(steps * made.strength), steps)
    if taken < 1:
        enough = "of 1" if steps == 1 else f"from {math.ceil(1000 / steps) / 1000:g} to 1"
        raise UsageError(
            f"a strength of {made.strength:g} leaves none of {steps} step{'s' * (steps > 1)}",
            f"choose a --strength {enough}, or more --steps",
        )
    return taken


def sampled(made: Init | None, sampling: Sampling, steps: int) -> Sampling:
    """The sampling of a picture that begins with another: without the steps that its strength leaves out."""
    return sampling if made is None else replace(sampling, start=steps - steps_taken(made, steps))


def has_mask_inputs(plan: Plan) -> bool:
    """Whether the UNet was made for inpainting: beside the latents it takes a mask and those of the masked picture."""
    return bool(plan.unet_config.get("in_channels", 4) != plan.architecture.latent_channels)


def check_model(made: Init | None, plan: Plan) -> None:
    """Raise UsageError for a model that was made for inpainting where nothing says what to redraw."""
    if has_mask_inputs(plan) and (made is None or made.picture.area is None):
        raise UsageError(
            f"the model {plan.name} is made for inpainting and wants a mask",
            "--init-image photo.png --inpaint-mask mask.png, or another model",
        )


def _border(pad: str | None) -> Padding:
    return Padding() if pad is None else padding.parse(pad)


def _other(side: int, ratio: float) -> int:
    return max(SIDE_STEP, round(side * ratio / SIDE_STEP) * SIDE_STEP)
