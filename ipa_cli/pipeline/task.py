"""What to draw, with every default filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ipa_cli import backends
from ipa_cli.config import Settings
from ipa_cli.config.step_cache import StepCache
from ipa_cli.errors import UsageError
from ipa_cli.images import filenames
from ipa_cli.images.faces import find
from ipa_cli.images.reference import Reference
from ipa_cli.models.lora import of_adapter, tags
from ipa_cli.models.lora.lora import Lora, load, warn_of_twins
from ipa_cli.models.plan import has_reference
from ipa_cli.models.prompts import embeddings
from ipa_cli.models.prompts.embeddings import Embedding
from ipa_cli.models.prompts.syntax import A1111
from ipa_cli.models.schedulers import Sampling
from ipa_cli.pipeline import (
    control,
    faces,
    hires,
    image_prompt,
    init_image,
    per_picture,
    sampling,
    span,
    spread,
    step_cache,
)
from ipa_cli.pipeline import regions as prompts_of_regions
from ipa_cli.pipeline.control import Control
from ipa_cli.pipeline.faces import FindFace
from ipa_cli.pipeline.hires import Hires
from ipa_cli.pipeline.image_embeds import Embeds
from ipa_cli.pipeline.image_prompt import ImagePrompt, check_masks
from ipa_cli.pipeline.init_image import Init
from ipa_cli.pipeline.references import Loaded
from ipa_cli.pipeline.regions import Region
from ipa_cli.result import NullReporter, Reporter

if TYPE_CHECKING:
    from ipa_cli.models.plan import Plan

NULL = NullReporter()


@dataclass(frozen=True)
class Request:
    """Pictures to draw that differ in their seeds alone, with every default filled in; sizes in pixels.

    One call of the UNet serves `batch_size` of them. With `image_per_picture` they differ in their references too: all
    seeds of the first reference are followed by the same ones of the next.
    """

    prompt: str
    negative_prompt: str
    image_prompts: tuple[ImagePrompt, ...]
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampling: Sampling
    seeds: tuple[int, ...]
    batch_size: int = 1
    preset: str | None = None  # see `sampling.Chosen`
    loras: tuple[Lora, ...] = ()
    guidance_start: float = 0.0  # fractions of the steps: guidance acts in those that lie wholly between
    guidance_end: float = 1.0
    guidance_rescale: float = 0.0
    step_cache: StepCache = StepCache()
    prompt_syntax: str = A1111
    embeddings: tuple[Embedding, ...] = ()  # textual inversion, at least those that its prompts name
    init: Init | None = None
    controls: tuple[Control, ...] = ()
    image_per_picture: bool = False
    hires: Hires | None = None
    regions: tuple[Region, ...] = ()

    def of_picture(self, number: int) -> Request:
        """The request for one of the pictures alone."""
        alone = replace(self, seeds=(self.seeds[number],), image_per_picture=False)
        if not self.image_per_picture:
            return alone
        which = number // (len(self.seeds) // self._references_apart)
        return replace(alone, image_prompts=tuple(per_picture.only(one, which) for one in self.image_prompts))

    @property
    def each(self) -> tuple[Request, ...]:
        """A request with each reference, for a picture, where they are drawn one by one; else itself."""
        if not self.image_per_picture:
            return (self,)
        pictures = len(self.seeds)
        return tuple(self.of_picture(number) for number in range(0, pictures, pictures // self._references_apart))

    @property
    def _references_apart(self) -> int:
        return max((len(one.references) for one in self.image_prompts), default=1) or 1

    @property
    def texts(self) -> tuple[str, ...]:
        """All its prompts and negative prompts, those of its regions last."""
        return (self.prompt, self.negative_prompt, *_of_regions(self.regions))

    @property
    def passes(self) -> tuple[Request, ...]:
        """A request for each pass: itself, or with a hires pass the first and the second."""
        if self.hires is None:
            return (self,)
        width, height = self.hires.size_over(self.width, self.height)
        steps, taken = self.hires.steps_over(self.steps)
        timesteps = self.sampling.timesteps if steps == self.steps else None
        how = replace(self.sampling, start=steps - taken, timesteps=timesteps)
        second = replace(self, width=width, height=height, steps=steps, sampling=how, init=None, hires=None)
        return replace(self, hires=None), second

    @property
    def steps_taken(self) -> int:
        """How many steps all passes go through: fewer where a picture to begin with stays in part."""
        return sum(one.steps - (one.sampling.start or 0) for one in self.passes)

    @property
    def steps_saved(self) -> int:
        """How many of these `step_cache` makes cheaper."""
        spans = [(one.start, one.end) for one in self.image_prompts] + [(one.start, one.end) for one in self.controls]
        guided = (one.guided_steps(one.steps - (one.sampling.start or 0)) for one in self.passes)
        return sum(step_cache.saved(self.step_cache, one, spans) for one in guided)

    @property
    def guided(self) -> bool:
        """Whether the UNet sees a negative half too, as in diffusers."""
        return self.guidance_scale > 1

    @property
    def guided_in_part(self) -> bool:
        """Whether some steps have guidance, which take a batch of both halves, and others have none."""
        return self.guided and (self.guidance_start, self.guidance_end) != (0, 1)

    def guided_steps(self, steps: int) -> list[bool]:
        """Which of so many steps have guidance: those in a limited interval, https://arxiv.org/abs/2404.07724."""
        return [
            self.guided and span.counts(self.guidance_start, self.guidance_end, step, steps) for step in range(steps)
        ]

    @property
    def batches(self) -> list[list[int]]:
        """Numbers of the pictures drawn at once; the last is repeated to fill its batch, so that one graph serves."""
        last, size = len(self.seeds) - 1, self.batch_size
        return [[min(number, last) for number in range(at, at + size)] for at in range(0, last + 1, size)]

    @property
    def scale(self) -> float:
        """The scale that `--scale` sets: that of the first adapter, 0 without any."""
        return self.image_prompts[0].scale if self.image_prompts else 0.0

    @property
    def references(self) -> tuple[Reference, ...]:
        """The reference images of all adapters."""
        return tuple(picture for image_prompt in self.image_prompts for picture in image_prompt.references)

    @property
    def digests(self) -> set[str]:
        """The SHA-256 of every picture that it takes."""
        begun_with = [] if self.init is None else [self.init.loaded.image, self.init.loaded.mask]
        negative = [image_prompt.negative for image_prompt in self.image_prompts]
        maps, areas = [one.image for one in self.controls], [one.mask for one in self.regions]
        each = (*self.references, *negative, *begun_with, *maps, *areas)
        return {one.sha256 for one in each if one is not None}

    @property
    def sources(self) -> tuple[Reference | Embeds, ...]:
        """The reference images of all adapters, or the files of image embeddings in their place."""
        return tuple(source for image_prompt in self.image_prompts for source in image_prompt.sources)


def make_requests(
    settings: Settings,
    plan: Plan,
    loaded: Loaded,
    prompts: Sequence[Mapping[str, Any]] = (),
    loras: tuple[Lora, ...] = (),
    reporter: Reporter = NULL,
) -> tuple[Request, ...]:
    """A request for each of `prompts`, settings in place of the others (`prompts.OF_A_LINE`); without any, just one.

    See `spread`.
    """
    apart = _of_each_seed(settings, loaded)
    each = spread.spread(settings, prompts, apart)
    first = make_request(each[0], plan, loaded, loras, reporter)
    found = []
    for one in each:
        prompt, own = with_tags(one, plan, loras)
        same = replace(first, prompt=prompt, negative_prompt=one.negative_prompt, loras=own)
        found.append(replace(same, seeds=spread.seeds(one) * apart, batch_size=one.batch_size))
    sampling.check_same(settings, plan, [one.loras for one in found])
    texts = [text for one in found for text in one.texts]
    known = embeddings.of_prompts(settings, plan, texts)
    return tuple(replace(one, embeddings=known) for one in found)


def with_tags(
    settings: Settings, plan: Plan, loras: tuple[Lora, ...], reporter: Reporter = NULL
) -> tuple[str, tuple[Lora, ...]]:
    """The prompt without its LoRAs, and these behind the others; in A1111's syntax, where there is a folder for them.

    Before all come those inside adapters that are followed. Raises UsageError and ModelError for one that is not found
    or does not fit.
    """
    prompt = _prompt(settings, plan)
    if settings.lora_dir is not None and settings.prompt_syntax == A1111:
        prompt, found = tags.split(prompt, settings.lora_dir)
        loras = (*loras, *load(found, plan, NULL))
    warn_of_twins(loras, reporter)
    if _follows(settings, plan):
        inside = of_adapter.load(settings.adapters, plan, reporter)
        of_adapter.check_once(inside, loras)
        loras = (*inside, *loras)
    if loras:
        backends.require(settings.backend, "loras")
    return prompt, loras


def _follows(settings: Settings, plan: Plan) -> bool:
    """Whether adapters act: they have references."""
    return bool(plan.adapters) and bool(settings.adapter or has_reference(settings.adapters[0], plan.defaults))


def make_request(
    settings: Settings,
    plan: Plan,
    loaded: Loaded,
    loras: tuple[Lora, ...] = (),
    reporter: Reporter = NULL,
    find_face: FindFace = find,
) -> Request:
    """Fill in what the user left open from the model's defaults; `loras` are those of the settings, loaded."""
    if loaded.init is None:
        width, height = (_chosen(settings, plan, name) for name in ("width", "height"))
    else:
        width, height = init_image.size(settings, plan, loaded.init)
    prompt, loras = with_tags(settings, plan, loras, reporter)
    seeds = spread.seeds(settings) * _of_each_seed(settings, loaded)
    how = sampling.choose(settings, plan, loras)
    init = None if loaded.init is None else init_image.make(settings, plan, loaded.init, (width, height))
    taken = how.steps if init is None else init_image.steps_taken(init, how.steps)
    each = zip(settings.adapters, loaded.adapters, strict=True) if _follows(settings, plan) else ()
    image_prompts = tuple(
        image_prompt.make(one, plan, adapter, pictures, taken, find_face, reporter)
        for adapter, (one, pictures) in zip(plan.adapters, each, strict=False)
    )
    faces.check_used(settings, plan.adapters)
    own, again = prompts_of_regions.make(settings.region, loaded.regions), hires.make(settings)
    hires.check(again, width, height, how.steps, init)
    for size in hires.sizes(again, width, height):
        check_masks(image_prompts, *size)
        prompts_of_regions.check(own, *size)
    per_picture.check(settings, image_prompts)
    if how.guidance_scale <= 1 and settings.inherited.isdisjoint(("negative_image", "adapter")):
        image_prompt.warn_of_unguided(image_prompts, reporter)
    span.check(settings.guidance_start, settings.guidance_end, taken, "guidance", "guidance")
    if any(image_prompt.masked for image_prompt in image_prompts):
        backends.require(settings.backend, "masks")
    if own:
        backends.require(settings.backend, "regions")
    controls = control.make(settings, plan, loaded.maps, taken)
    control.warn_of_lineless(controls, (width, height), reporter)
    return Request(
        prompt,
        settings.negative_prompt,
        image_prompts,
        width=width,
        height=height,
        steps=how.steps,
        guidance_scale=how.guidance_scale,
        sampling=init_image.sampled(init, how.sampling, how.steps),
        preset=how.preset,
        seeds=seeds,
        batch_size=min(settings.batch_size, len(seeds)),
        loras=loras,
        guidance_start=settings.guidance_start,
        guidance_end=settings.guidance_end,
        guidance_rescale=settings.guidance_rescale,
        step_cache=step_cache.choose(settings, plan, how.sampling),
        prompt_syntax=settings.prompt_syntax,
        embeddings=embeddings.of_prompts(settings, plan, (prompt, settings.negative_prompt, *_of_regions(own))),
        init=init,
        image_per_picture=settings.image_per_picture,
        hires=again,
        controls=controls,
        regions=own,
    )


def _of_regions(regions: Sequence[Region]) -> list[str]:
    return [text for one in regions for text in (one.prompt, one.negative) if text is not None]


def _of_each_seed(settings: Settings, loaded: Loaded) -> int:
    """How many pictures are drawn from each seed."""
    return per_picture.count(settings, [len(one.references) for one in loaded.adapters])


def _chosen(settings: Settings, plan: Plan, name: str) -> Any:
    value = getattr(settings, name)
    return plan.defaults.get(name) if value is None else value


def _prompt(settings: Settings, plan: Plan) -> str:
    prompt = _chosen(settings, plan, "prompt")
    if prompt is None:
        raise UsageError(
            f"the model {plan.name} has no prompt of its own", 'say what to draw: --prompt "a red fox in the snow"'
        )
    return prompt


def name_fields(request: Request, number: int) -> dict[str, Any]:
    """The fields for the file name of picture `number`, see `filenames.plan_paths`."""
    references = [one.source for one in request.of_picture(number).sources]
    plain = {"seed": request.seeds[number], "scale": request.scale, "index": number, "prompt": request.prompt}
    return {**plain, "image": filenames.stem(references)}
