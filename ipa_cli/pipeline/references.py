"""The pictures and files that settings name, each checked and read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ipa_cli.config import Settings
from ipa_cli.errors import UsageError
from ipa_cli.images import reference
from ipa_cli.images.mask import EVERYWHERE
from ipa_cli.images.reference import Reference
from ipa_cli.pipeline import control, hires, init_image
from ipa_cli.result import Reporter
from ipa_cli.system.inputs import check_stdin


@dataclass(frozen=True)
class AdapterImages:
    """The reference images and masks of one adapter, loaded; `embeds` is its file of embeddings, if in memory."""

    references: tuple[Reference, ...] = ()
    masks: tuple[Reference, ...] = ()
    embeds: bytes | None = None
    negative: Reference | None = None


@dataclass(frozen=True)
class Loaded:
    """The pictures of a request: those of each adapter, the one to begin with, and the map of each ControlNet."""

    adapters: tuple[AdapterImages, ...] = ()
    init: init_image.Loaded | None = None
    maps: tuple[Reference, ...] = ()
    regions: tuple[Reference, ...] = ()  # the mask of each


@dataclass(frozen=True)
class InMemory:
    """What came without a place on disk, by name: pictures, each with whether it is a mask, and files of embeddings.

    `members` are the pictures that a name stands for, where that is not itself; each of them is among `pictures`.
    """

    pictures: Mapping[tuple[str, bool], Reference] = field(default_factory=dict)
    embeds: Mapping[str, bytes] = field(default_factory=dict)
    members: Mapping[tuple[str, bool], Sequence[str]] = field(default_factory=dict)

    def meant(self, name: str, as_mask: bool) -> Sequence[str]:
        """The pictures that a name stands for; none for a name that is not of these."""
        itself = [name] if (name, as_mask) in self.pictures else []
        return self.members.get((name, as_mask), itself)


def load_references(settings: Settings, reporter: Reporter, in_memory: InMemory | None = None) -> Loaded:
    """All pictures that the settings name, each checked and read once, with notes on conversions.

    What is `in_memory` is not read from disk.
    """
    in_memory = in_memory or InMemory()
    each = settings.adapters
    init, area = ([] if name is None else [name] for name in (settings.init_image, settings.inpaint_mask))
    negatives = [[] if one.negative_image is None else [one.negative_image] for one in each]
    maps = [one.image for one in settings.control if one.image is not None]
    pictures = [*init, *maps, *(name for one in each for name in one.image)]
    pictures += [name for many in negatives for name in many]
    areas = [[one.mask] for one in settings.region]
    masks_typed = [*area, *(name for one in each for name in one.mask), *(name for [name] in areas)]
    check_stdin([*pictures, *masks_typed, *(one.embeds for one in each)])
    members = {
        (name, as_mask): in_memory.meant(name, as_mask) or reference.expand(name, reporter.note)
        for names, as_mask in ((pictures, False), (masks_typed, True))
        for name in dict.fromkeys(names)
    }

    init_image.check_given(settings, members, reporter)
    hires.remark(settings, reporter)
    control.check_given(settings, members)

    def read_once(typed: Sequence[Sequence[str]], as_mask: bool, unsaid: str = "") -> list[tuple[Reference, ...]]:
        load = reference.load_mask if as_mask else reference.load
        names = [[member for name in many for member in members[name, as_mask]] for many in typed]
        each_once = dict.fromkeys(name for many in names for name in many)
        found = {name: in_memory.pictures.get((name, as_mask)) or load(name) for name in each_once}
        for picture in found.values():
            for remark in (remark for remark in picture.notes if remark != unsaid):
                reporter.note(f"{picture.source}: {remark}")
        return [tuple(found[name] for name in many) for many in names]

    references = read_once([one.image for one in each], as_mask=False)
    masks = read_once([one.mask for one in each], as_mask=True)
    embeds = [in_memory.embeds.get(one.embeds or "") for one in each]
    begun_with = init_image.load(read_once([init], False)[0], read_once([area], True, EVERYWHERE)[0], reporter)
    each_negative = [_one(found) for found in read_once(negatives, as_mask=False)]
    followed = tuple(image for (image,) in read_once([[name] for name in maps], as_mask=False))
    control.note_empty(followed, reporter)
    own = tuple(_one_mask(found) for found in read_once(areas, True, EVERYWHERE))
    return Loaded(tuple(map(AdapterImages, references, masks, embeds, each_negative)), begun_with, followed, own)


def remark_none(settings: Settings, reporter: Reporter) -> None:
    """Say that pictures follow no reference; warns where one is given, which no adapter follows."""
    if any(one.image or one.embeds or one.negative_image for one in settings.adapters):
        reporter.warn("no adapter is used, and none of the references is followed: drawing from the prompt alone")
    else:
        reporter.note("no reference picture: drawing from the prompt alone (add one with --image)")


def _one_mask(masks: Sequence[Reference]) -> Reference:
    """The mask of a region. Raises UsageError for several."""
    if len(masks) > 1:
        raise UsageError(f"a region has one mask, not {len(masks)}", f"name one: mask={masks[0].source}")
    return masks[0]


def _one(negative: Sequence[Reference]) -> Reference | None:
    """The negative image of an adapter. Raises UsageError for several."""
    if len(negative) > 1:
        raise UsageError(
            f"an adapter has one negative image, not {len(negative)}",
            f"name one: --negative-image {negative[0].source}",
        )
    return negative[0] if negative else None
