"""The files that a planned model is built from: which they are, and fetching those that are not here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ipa_cli.models import location as locations
from ipa_cli.models import weights
from ipa_cli.models.architectures.base import folders
from ipa_cli.models.controlnet.plan import ControlPlan
from ipa_cli.models.ip_adapter.plan import AdapterPlan, check_fetched
from ipa_cli.models.location import DIFFUSERS, Location, ModelError, folder_location, inside, is_folder, read_json
from ipa_cli.models.plan import Plan
from ipa_cli.result import Reporter
from ipa_cli.system.inputs import leads_nowhere

if TYPE_CHECKING:
    import torch

OF_DIFFUSERS = ("unet", "vae")
MOST_BYTES = 32 << 20  # of an index


def fetched(plan: Plan, dtype: torch.dtype, reporter: Reporter, shows_bars: bool) -> Plan:
    """The plan with every hub location replaced by a local folder; adapters first, which may turn out not to fit."""
    plan = replace(plan, adapters=fetched_adapters(plan, dtype, reporter, shows_bars))
    location = plan.location
    if plan.variant and plan.checkpoint is None and not plan.dummy:
        _check_variant(plan, plan.variant, reporter)
    if location.repo is not None:
        files = ["model_index.json"]
        for part in folders(plan.architecture):
            small = (name for name in location.files(part) if name.endswith((".json", ".txt", ".model")))
            files += [name for name in small if ".index." not in name]
            if not part.startswith(("tokenizer", "scheduler")) and (part != "vae" or plan.vae is None):
                files += weight_files(location, part, plan.variant, dtype)
        folder = locations.fetched(location, dict.fromkeys(files), reporter, shows_bars)
        location = replace(folder_location(folder), repo=location.repo, revision=location.revision)
    vae = plan.vae
    if vae is not None and vae.location.folder is None:
        files = [inside(vae.folder, "config.json"), *weight_files(vae.location, vae.folder, None, dtype)]
        vae = replace(vae, location=_fetched(vae.location, files, reporter, shows_bars))
    controls = tuple(_fetched_control(one, plan.variant, dtype, reporter, shows_bars) for one in plan.controls)
    return replace(plan, location=location, vae=vae, controls=controls)


def _fetched_control(
    control: ControlPlan, variant: str | None, dtype: torch.dtype, reporter: Reporter, shows_bars: bool
) -> ControlPlan:
    if control.location.folder is not None:
        return control
    files = weight_files(control.location, control.folder, variant, dtype)
    return replace(control, location=_fetched(control.location, files, reporter, shows_bars))


def _check_variant(plan: Plan, variant: str, reporter: Reporter) -> None:
    """Say which parts lack the variant asked for. Raises ModelError where all do."""
    parts = ("unet", *plan.architecture.text_encoders, *(("vae",) if plan.vae is None else ()))
    lacking = [part for part in parts if not has_variant(plan.location, part, variant)]
    if len(lacking) == len(parts):
        raise ModelError(f"{plan.location} has no weights of variant '{variant}'", "leave out --variant")
    if lacking:
        reporter.note(f"not there as {variant}: {', '.join(lacking)} (read as they are)")


def fetched_adapters(plan: Plan, dtype: torch.dtype, reporter: Reporter, shows_bars: bool) -> tuple[AdapterPlan, ...]:
    """The plan's adapters, each in a local folder. Raises an IpaError for one that does not fit."""
    found = []
    for adapter in plan.adapters:
        adapter = replace(adapter, location=_fetched(adapter.location, [adapter.file], reporter, shows_bars))
        check_fetched(adapter, plan.unet_config, plan.architecture)
        encoder = adapter.encoder
        if encoder is not None and adapter.encodes and encoder.location.folder is None:
            files = weight_files(encoder.location, encoder.part, None, dtype)
            encoder = replace(encoder, location=_fetched(encoder.location, files, reporter, shows_bars))
            adapter = replace(adapter, encoder=encoder)
        found.append(adapter)
    return tuple(found)


def _fetched(location: Location, files: list[str], reporter: Reporter, shows_bars: bool) -> Location:
    if location.folder is not None:
        return location
    return replace(location, folder=locations.fetched(location, files, reporter, shows_bars))


def weight_files(location: Location, part: str, variant: str | None, dtype: torch.dtype) -> list[str]:
    """The weight files of one part, after the index of those that are several.

    A variant that was asked for comes first, as in diffusers; else safetensors before pickles, and half-size ones where
    they are enough.
    """
    if weights.is_safetensors(part) or weights.is_pickle(part):
        return [part]
    endings = (".safetensors", ".bin")
    if variant:
        order = [(ending, suit) for suit in (variant, None) for ending in endings]
    else:
        suits = ("fp16", None) if str(dtype) != "torch.float32" else (None, "fp16")
        order = [(ending, suit) for ending in endings for suit in suits]
    for ending, suit in order:
        if files := _weights(location, part, suit, ending):
            return files
    _check_links(location, part)
    others = {name.split(".")[-2] for name in location.files(part) if name.count(".") == 2 and name.endswith(endings)}
    hint = " or ".join(f"--variant {name}" for name in sorted(others)) or "name a whole model"
    raise location.lacks(f"weights for {part}", hint)


def _check_links(location: Location, part: str) -> None:
    """Raise ModelError for weights that are a link to nothing, as in a hub cache whose blobs were deleted."""
    if location.folder is None or not is_folder(folder := location.folder / part):
        return
    for path in sorted(folder.iterdir()):
        if (weights.is_safetensors(path) or weights.is_pickle(path)) and leads_nowhere(path):
            raise ModelError(f"{path} is a link to {path.readlink()}, which is not there", "download the model again")


def has_variant(location: Location, part: str, variant: str) -> bool:
    """Whether there are weights of this variant for a part."""
    return any(_weights(location, part, variant, ending) for ending in (".safetensors", ".bin"))


def _weights(location: Location, part: str, variant: str | None, ending: str) -> list[str]:
    """The weights of one kind: one file, or an index and its shards. Where both are, diffusers takes the shards."""
    # A location that is a part itself tells by its files whose it is.
    named = inside(part, DIFFUSERS)
    of_diffusers = part in OF_DIFFUSERS or any(name.startswith(named) for name in location.files(part))
    stem = DIFFUSERS if of_diffusers else "model" if ending == ".safetensors" else "pytorch_model"
    middle = f".{variant}" if variant else ""
    whole = inside(part, f"{stem}{middle}{ending}")
    indexes = [inside(part, f"{stem}{ending}{rest}.json") for rest in (f".index{middle}", f"{middle}.index")]
    index = next((name for name in dict.fromkeys(indexes) if location.has(name)), None)
    if location.has(whole) and not (of_diffusers and index):
        return [whole]
    return [index, *_shards(location, index, ending)] if index else []


def _shards(location: Location, index: str, ending: str) -> list[str]:
    """The files that an index names, and no others. Raises ModelError for an index that cannot be followed."""
    listed = read_json(location, index, MOST_BYTES).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise ModelError(f"{location}/{index} names no files in its weight_map", "download it again")
    shards = []
    for name in sorted(set(listed.values())):
        if not name.endswith(ending) or name != PurePosixPath(name).name or "\\" in name:
            raise ModelError(f"{location}/{index} names {name!r}, which is no file beside it", "download it again")
        shards.append(str(PurePosixPath(index).with_name(name)))
        if not location.has(shards[-1]):
            raise ModelError(f"{location} has no {shards[-1]}, which its index names", "download it again")
    return shards
