"""ControlNets of a request: which maps they follow, how strongly, and in which steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ipa_cli import backends
from ipa_cli.config import Settings
from ipa_cli.config.controls import EXAMPLE, MAPS
from ipa_cli.errors import UsageError
from ipa_cli.images import control_map, proportions
from ipa_cli.images.reference import Reference
from ipa_cli.pipeline import span
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    from PIL.Image import Image

    from ipa_cli.models.plan import Plan


@dataclass(frozen=True)
class Control:
    """What one ControlNet of a model follows: a map, how strongly, and in which part of the steps.

    `network` is its number in the plan, `kind` that of the map for a union model, by the name `mode`.
    """

    network: int
    image: Reference = field(compare=False)
    sha256: str
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    preprocess: str | None = None
    mode: str | None = None
    kind: int | None = None
    made: dict[tuple[int, int], Image] = field(default_factory=dict, compare=False, repr=False)  # maps by their size

    def map(self, size: tuple[int, int]) -> Image:
        """The map for a picture of this size, made once for this control and its copies. Raises IpaError."""
        if size not in self.made:
            self.made[size] = control_map.make(self.image.image, size, self.preprocess)
        return self.made[size]

    def times(self, factor: float) -> Control:
        """The same with its scale multiplied by this."""
        return replace(self, scale=round(self.scale * factor, 6))

    @property
    def content(self) -> tuple[Any, ...]:
        """What its hint depends on, beside the size of the picture."""
        return self.network, self.sha256, self.preprocess, self.kind


def check_given(settings: Settings, members: Mapping[tuple[str, bool], Sequence[str]]) -> None:
    """Raise UsageError for a ControlNet without a map, or with several; IpaError for one that nothing can make."""
    for one in settings.control:
        if one.image is None:
            raise UsageError(f"the ControlNet {one.place} has no map to follow", f"name one: {EXAMPLE}")
        if len(several := members[one.image, False]) > 1:
            raise UsageError(f"the control map {one.image} stands for {len(several)} pictures", f"{several[0]} is one")
        control_map.check(one.preprocess)


def make(settings: Settings, plan: Plan, maps: Sequence[Reference], steps: int) -> tuple[Control, ...]:
    """The controls of a request that goes through so many steps. Raises UsageError for what does not fit."""
    if not settings.control:
        return ()
    backends.require(settings.backend, "control_residuals")
    places, found = [one.place for one in plan.controls], []
    for config, image in zip(settings.control, maps, strict=True):
        if config.place not in places:
            raise UsageError(f"the ControlNet {config.place} is not loaded", f"loaded: {', '.join(places) or 'none'}")
        network = places.index(config.place)
        mode = config.mode or (MAPS.get(config.preprocess or "") if plan.controls[network].union else None)
        kind = plan.controls[network].kind(mode)
        span.check_any(config.start, config.end, steps, f"widen start to end of --control {config.place}")
        where = config.scale, config.start, config.end, config.preprocess
        found.append(Control(network, image, image.sha256, *where, mode, kind))
    return tuple(found)


def note_empty(maps: Sequence[Reference], reporter: Reporter) -> None:
    """Warn of maps of one colour, in which there is nothing to follow."""
    for image in {one.source: one for one in maps}.values():
        if control_map.is_empty(image.image):
            reporter.warn(f"the control map {image.source} is of one colour: there is nothing to follow in it")


def warn_of_lineless(controls: Sequence[Control], size: tuple[int, int], reporter: Reporter) -> None:
    """Warn of preprocessors that find no lines in what they are given; of what is empty itself, `note_empty` warns."""
    for one in {(one.image.source, one.preprocess): one for one in controls}.values():
        if one.preprocess not in control_map.OF_LINES or control_map.is_empty(one.image.image):
            continue
        if control_map.is_lineless(one.map(size)):
            reporter.warn(
                f"preprocess={one.preprocess} finds no lines in {one.image.source}, so there is nothing to follow: "
                "choose a picture with more contrast, another preprocess, or a map that is made already"
            )


def note_size(controls: Sequence[Control], size: tuple[int, int], reporter: Reporter) -> None:
    """Warn of maps that are stretched to other proportions than those of the picture."""
    for image, given in {one.image.source: one.image for one in controls}.items():
        if proportions.differ((given.width, given.height), size):
            reporter.warn(
                f"the control map {image} is {given.width}x{given.height}, the picture {size[0]}x{size[1]}: "
                "it is stretched; --size chooses another"
            )
