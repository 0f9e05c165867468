"""What each IP-Adapter adds: its references, and how strongly they act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ipa_cli.config import AdapterConfig
from ipa_cli.config.modes import CONCAT, TILES
from ipa_cli.config.settings import EXAMPLE
from ipa_cli.config.units import plural
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.images import proportions, reference, tiles
from ipa_cli.images.mask import HALF
from ipa_cli.images.reference import Reference
from ipa_cli.images.tiles import Area
from ipa_cli.models.plan import DEMO_REFERENCE
from ipa_cli.pipeline import faces, image_embeds, span
from ipa_cli.pipeline.faces import Faces, FindFace
from ipa_cli.pipeline.image_embeds import Embeds
from ipa_cli.pipeline.references import AdapterImages
from ipa_cli.result import Reporter
from ipa_cli.unet import layers, weight_types
from ipa_cli.unet.weight_types import Pattern

if TYPE_CHECKING:
    from ipa_cli.models.ip_adapter.plan import AdapterPlan
    from ipa_cli.models.plan import Plan


@dataclass(frozen=True)
class ModePattern:
    """What a mode means for a UNet: see the fields of `ImagePrompt`."""

    mode: str
    pattern: Pattern
    on_negative: Pattern


@dataclass(frozen=True)
class ImagePrompt:
    """What one IP-Adapter adds: on layer i its scale is `scale` times the pattern's factor for i.

    It acts in the steps that lie wholly between `start` and `end`, fractions of all steps.
    """

    scale: float
    mode: str
    table: str | None
    pattern: Pattern
    start: float
    end: float
    references: tuple[Reference, ...]
    weights: tuple[float, ...]  # one for each reference
    fit: str
    embeds: Embeds | None  # in place of references
    masks: tuple[Reference, ...] = ()  # none, one for all references, or one for each
    on_negative: Pattern = field(default_factory=dict)  # 1 where the negative half sees it, not the positive one
    combine: str = CONCAT
    negative: Reference | None = None  # what the negative half sees, in the place of nothing
    sharpening: float = 0.0
    tiles: tuple[Area, ...] = ()  # where each tile of its references acts
    faces: Faces = Faces()

    def in_mode(self, mode: ModePattern) -> ImagePrompt:
        """The same references in another mode."""
        return replace(self, mode=mode.mode, pattern=mode.pattern, on_negative=mode.on_negative)

    @property
    def sources(self) -> tuple[Reference | Embeds, ...]:
        """Its reference images, or the file of image embeddings in their place."""
        return self.references if self.embeds is None else (self.embeds,)

    @property
    def parts(self) -> int:
        """Its number of rows in the context: one for each tile or mask."""
        return len(self.tiles) or max(1, len(self.masks))

    @property
    def masked(self) -> bool:
        """Whether it acts in some parts of the picture alone."""
        return bool(self.masks or self.tiles)

    @property
    def combined(self) -> bool:
        """Whether several references are one image, with one image's tokens."""
        return self.combine != CONCAT and len(self.weights) > 1

    @property
    def value_weights(self) -> tuple[float, ...]:
        """A weight for the values of each image in its rows: those of combined references are in their embeddings."""
        return ((1.0,) if self.combined else self.weights) * max(1, len(self.tiles))


def check_masks(image_prompts: Sequence[ImagePrompt], width: int, height: int) -> None:
    """Raise IpaError unless every mask has the proportions of the picture and is white somewhere."""
    for mask in (mask for image_prompt in image_prompts for mask in image_prompt.masks):
        if not any(mask.image.histogram()[HALF:]):
            raise IpaError(
                f"the mask {mask.source} is dark everywhere",
                "make it white, or at least lighter than half, where the reference acts",
            )
        if proportions.differ((mask.width, mask.height), (width, height)):
            raise IpaError(
                f"the mask {mask.source} is {mask.width}x{mask.height}, the picture {width}x{height}",
                proportions.of_mask(width, height),
            )


def warn_of_unguided(image_prompts: Sequence[ImagePrompt], reporter: Reporter) -> None:
    """Warn of what acts on the negative half, for pictures without guidance, which have none."""
    for one in image_prompts:
        if one.negative is not None:
            reporter.warn(f"without guidance the negative image {one.negative.source} has no effect")
        if one.on_negative:
            reporter.warn(f"without guidance --ip-mode {one.mode} leaves out the layers that act on the negative half")


def _check_number(masks: Sequence[Reference], images: int, config: AdapterConfig, tiled: bool) -> None:
    """Raise UsageError unless there is one mask for all pictures, or one for each that acts on its own."""
    if len(masks) not in (0, 1, images):
        raise UsageError(
            f"{len(masks)} masks for {images} reference picture{'s' * (images > 1)}",
            "give one --mask for all of them, or one for each",
        )
    if len(masks) > 1 and (tiled or config.combine != CONCAT):
        why = "tiles act in places of their own" if tiled else f"--image-combine {config.combine} makes them one"
        raise UsageError(f"{len(masks)} masks for {images} reference pictures, and {why}", "give one --mask for all")


def make(
    config: AdapterConfig,
    plan: Plan,
    adapter: AdapterPlan,
    loaded: AdapterImages,
    steps: int,
    find_face: FindFace,
    reporter: Reporter,
) -> ImagePrompt:
    """The references of one adapter, and how strongly they act."""
    if config.layers is None:
        mode, usual = of_mode(config.mode, plan), plan.defaults["scale"]
    elif config.mode != "full":
        raise UsageError("--ip-mode and --ip-layers both choose layers", "leave one of them out")
    else:  # the table contains the scales
        mode, usual = ModePattern("full", layers.parse(config.layers, layers.blocks(plan.unet_config)), {}), 1.0
    start, end = config.start, config.end
    span.check(start, end, steps, "the reference", "ip")
    references = loaded.references
    encoded = None if config.embeds is None else image_embeds.read(config.embeds, adapter, loaded.embeds)
    if encoded is None and not references:
        if "reference" not in plan.defaults:
            raise UsageError("an adapter has no reference picture", f"give it one, such as {EXAMPLE}")
        faces.check_given(adapter)
        references = (replace(reference.load(plan.defaults["reference"]), source=DEMO_REFERENCE),)
    count = len(references) if encoded is None else len(encoded.positive)
    areas = () if encoded is not None or config.fit != TILES else _tiles(references)
    _check_number(loaded.masks, count, config, bool(areas))
    if config.negative_image is not None and encoded is not None and (adapter.face is None or adapter.face.picture):
        raise UsageError(
            f"--negative-image {config.negative_image}: {encoded.source} has a negative half already",
            "encode both with ipa embed cat.png --negative-image dog.png",
        )
    weights = config.weight or (1.0,) * count
    if len(weights) != count:
        raise UsageError(
            f"{len(weights)} image weights for {plural(count, 'reference picture')}",
            "give one --image-weight for each picture, in their order, or none",
        )
    if not any(weights):
        raise UsageError("all image weights are 0", "use --scale 0 to draw without the references")
    scale = usual if config.scale is None else config.scale
    return ImagePrompt(
        scale,
        mode.mode,
        config.layers,
        mode.pattern,
        start,
        end,
        references,
        tuple(weights),
        config.fit,
        encoded,
        loaded.masks,
        mode.on_negative,
        config.combine,
        loaded.negative,
        config.sharpening,
        areas,
        faces.of_references(references, config, adapter, find_face, reporter),
    )


def of_mode(mode: str, plan: Plan) -> ModePattern:
    """What a mode means for the UNet of a model. Raises IpaError where the UNet has no such layers."""
    known, sdxl = layers.blocks(plan.unet_config), plan.architecture.preset == "sdxl"
    return ModePattern(mode, layers.of_mode(mode, known, sdxl), weight_types.on_negative(mode, known, sdxl))


def _tiles(references: Sequence[Reference]) -> tuple[Area, ...]:
    """Where the tiles of all references act. Raises UsageError unless each reference has the same."""
    first, *others = references
    found = tiles.of_size(first.width, first.height).areas
    for other in others:
        if tiles.of_size(other.width, other.height).areas != found:
            raise UsageError(
                f"the tiles of {first.source}, {first.width}x{first.height}, are not those of {other.source}, "
                f"{other.width}x{other.height}",
                "give references of the same proportions, or several --adapter",
            )
    return found
