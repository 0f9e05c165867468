"""The files that a planned model is built from: which they are, and fetching those that are not here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from . import adapters, hub
from .locations import Location, ModelError, folder_location
from .models import Plan
from .report import Reporter

if TYPE_CHECKING:
    import torch

WEIGHT_NAMES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


def fetched(plan: Plan, dtype: torch.dtype, reporter: Reporter, shows_bars: bool) -> Plan:
    """The plan with every hub location replaced by a local folder; adapters first, which may turn out not to fit."""
    plan = replace(plan, adapters=fetched_adapters(plan, dtype, reporter, shows_bars))
    location = plan.location
    if location.repo is not None:
        files = ["model_index.json"]
        for part in plan.family.parts:
            inside = sorted(name for name in location.names if name.startswith(part + "/"))
            files += [name for name in inside if name.endswith((".json", ".txt", ".model"))]
            if not part.startswith(("tokenizer", "scheduler")):
                files += weight_files(location, part, plan.variant, dtype)
        folder = hub.fetch(location.repo, location.revision, dict.fromkeys(files), reporter, shows_bars)
        location = replace(folder_location(folder), repo=location.repo, revision=location.revision)
    return replace(plan, location=location)


def fetched_adapters(
    plan: Plan, dtype: torch.dtype, reporter: Reporter, shows_bars: bool
) -> tuple[adapters.AdapterPlan, ...]:
    """The plan's adapters, each in a local folder. Raises an IpaError for one that does not fit."""
    found = []
    for adapter in plan.adapters:
        where = adapter.location
        if where.folder is None:
            assert where.repo is not None
            encoder = [f"{adapter.encoder}/config.json"]
            if adapter.encodes:
                encoder += weight_files(where, adapter.encoder, None, dtype)
            folder = hub.fetch(where.repo, where.revision, [adapter.file, *encoder], reporter, shows_bars)
            adapter = replace(adapter, location=replace(where, folder=folder))
            adapters.check_fetched(adapter, plan.unet_config, plan.family)
        found.append(adapter)
    return tuple(found)


def weight_files(location: Location, part: str, variant: str | None, dtype: torch.dtype) -> list[str]:
    """The weight files of one part: safetensors before pickles, and half-size ones where they are enough."""
    stem = WEIGHT_NAMES.get(part, "model")
    pickle_stem = stem if stem != "model" else "pytorch_model"
    suits = [variant] if variant else (["fp16", None] if str(dtype) != "torch.float32" else [None, "fp16"])
    for ending, base in ((".safetensors", stem), (".bin", pickle_stem)):
        for suit in suits:
            middle = f".{suit}" if suit else ""
            whole = f"{part}/{base}{middle}{ending}"
            if whole in location.names:
                return [whole]
            index = f"{part}/{base}{ending}.index{middle}.json"
            if index in location.names:
                head = f"{part}/{base}{middle}-"
                return [index, *sorted(n for n in location.names if n.startswith(head) and n.endswith(ending))]
    kind = f" of variant '{variant}'" if variant else ""
    raise ModelError(f"{location} has no weights{kind} for {part}", "check --variant, or name a whole model")
