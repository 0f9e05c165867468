"""The points of a sweep as requests to the engine, and the description of them that `sweep.json` keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ipa_cli import __version__
from ipa_cli.backends import AUTO
from ipa_cli.config import FIELDS, Settings
from ipa_cli.config.privacy import public_name
from ipa_cli.engine.record import adapter_name, control_record, hires_record, init_record, regions_record
from ipa_cli.models.lora.lora import Lora
from ipa_cli.models.plan import Plan
from ipa_cli.pipeline.image_prompt import ModePattern
from ipa_cli.pipeline.init_image import Init
from ipa_cli.pipeline.sampling import own_scheduler
from ipa_cli.pipeline.task import Request
from ipa_cli.sweep import journal, reference_sets
from ipa_cli.sweep.plan import Row, Sweep
from ipa_cli.sweep.reference_sets import ReferenceSet

Size = tuple[int, int]  # width and height in pixels
OF_A_SIZE = ("backend", "graph")  # of `record.drawn_by`: each size has its own


@dataclass(frozen=True)
class Layout:
    """A sweep with what its points have in common: `base`, and a reference set for each reference of the sweep.

    `texts` are its prompts without their LoRAs, and these. `inits` are the picture to begin with at each size,
    `patterns` what each of several modes means here.
    """

    base: Request
    sweep: Sweep
    reference_sets: tuple[ReferenceSet, ...]
    texts: tuple[tuple[str, tuple[Lora, ...]], ...]
    inits: Mapping[Size, Init] = field(default_factory=dict)
    patterns: Mapping[str, ModePattern] = field(default_factory=dict)

    def request(self, row: Row, scale: float = 1.0) -> Request:
        """One picture, as its file records it."""
        prompt, loras = self.texts[row.prompt]
        return replace(
            self.base,
            image_prompts=self.reference_sets[row.reference].at(scale, self.patterns.get(row.mode or "")),
            prompt=prompt,
            loras=tuple(lora.times(row.lora_weight) for lora in loras),
            width=row.width,
            height=row.height,
            controls=tuple(one.times(row.control_scale) for one in self.base.controls),
            init=self.inits.get((row.width, row.height)),
            seeds=(row.seed,),
            batch_size=1,
        )

    def settings(self, settings: Settings, row: Row, scale: float) -> Settings:
        """The settings with which `ipa generate` draws one picture; `settings` are those that all have in common."""
        prompt, loras = self.texts[row.prompt]
        own: dict[str, Any] = {
            "prompt": prompt,
            "scale": scale,
            "width": row.width,
            "height": row.height,
            "seed": row.seed,
            "lora": tuple(lora.times(row.lora_weight).config for lora in loras if not lora.of_adapter),
            "control": tuple(one.times(row.control_scale) for one in settings.control),
        }
        if row.mode is not None:
            own["ip_mode"] = row.mode
        first = self.reference_sets[row.reference].image_prompts[0]
        if first.embeds is not None and not settings.adapter:
            own["embeds"] = first.embeds.source
        if first.references and settings.image:
            own["image"] = tuple(reference.source for reference in first.references)
        return replace(settings, **own)

    @cached_property
    def first_of_size(self) -> Mapping[Size, Request]:
        """The request of the first row of each size."""
        found: dict[Size, Request] = {}
        for row in self.sweep.rows:
            size = (row.width, row.height)
            if size not in found:
                found[size] = self.request(row)
        return found


def describe_request(settings: Settings, model: Plan, layout: Layout, backend: str) -> dict[str, Any]:
    """What determines the pictures beside the axes, as far as it is known before torch is imported.

    What was not asked for is there too, as None: a sweep that asked for it is another one.
    """
    base = layout.base
    guidance = {name: getattr(base, name) for name in ("guidance_start", "guidance_end", "guidance_rescale")}
    known_later = {
        "dtype": None if settings.dtype == "auto" else settings.dtype,
        "backend": None if backend == AUTO else [backend] * len(layout.sweep.sizes),
    }
    return {
        journal.REFERENCE_DIGESTS: [digest for references in layout.reference_sets for digest in references.digests],
        "negative_prompt": base.negative_prompt,
        "prompt_syntax": base.prompt_syntax,
        "embeddings": [embedding.sha256 for embedding in base.embeddings],
        "steps": base.steps,
        "guidance_scale": base.guidance_scale,
        "model": public_name(model.name),
        "load_format": settings.load_format,
        "revision": settings.revision,
        "variant": settings.variant,
        "vae": settings.vae,
        "adapter": adapter_name(model),
        "vae_tiling": settings.vae_tiling,
        "loras": _loras(layout),
        "init": init_record(base.init) if base.init else None,
        "pad": base.init.pad if base.init else None,
        "controls": control_record(model, base) if base.controls else None,
        "hires": hires_record(base),
        "regions": regions_record(base),
        **{name: None if value == FIELDS[name].default else value for name, value in guidance.items()},
        "step_cache": settings.step_cache if base.step_cache.every > 1 else None,
        "scheduler": base.sampling.scheduler or own_scheduler(model),
        "schedule": base.sampling.schedule,
        "eta": base.sampling.eta,
        "preset": base.preset,
        **reference_sets.describe(settings, layout.reference_sets),
        "ipa": __version__,
        **{name: value for name, value in known_later.items() if value is not None},
    }


def _loras(layout: Layout) -> list[Any] | None:
    """The LoRAs of each prompt, where there are any."""
    each = [[[lora.weight, lora.text_weight, lora.file.sha256[:16]] for lora in loras] for _, loras in layout.texts]
    return each if any(each) else None


def with_engines(described: Mapping[str, Any], drawn_by: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A description with `record.drawn_by` of each size, known once graphs are open.

    Found out or asked for, the same entry has the same place, so that equal sweeps have equal files.
    """
    first = drawn_by[0]
    found = {name: [one[name] for one in drawn_by] if name in OF_A_SIZE else first[name] for name in first}
    return {**{name: value for name, value in described.items() if name not in found}, **found}
