"""The LoRA inside a FaceID adapter's file: made for its UNet, merged like any other.

As diffusers' `_load_ip_adapter_loras`: attention number i of the UNet, self and cross attention counted together, has
the matrices `ip_adapter.<i>.to_q_lora.down.weight` and so on, without an alpha.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ipa_cli.config import AdapterConfig, LoraConfig
from ipa_cli.errors import UsageError
from ipa_cli.models import location as locations
from ipa_cli.models import weights
from ipa_cli.models.lora import file, targets
from ipa_cli.models.lora.file import LoraFile
from ipa_cli.models.lora.lora import Lora
from ipa_cli.models.lora.targets import UNET, Targets
from ipa_cli.models.plan import Plan
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.models.ip_adapter.plan import AdapterPlan

_NAME = re.compile(r"ip_adapter\.(\d+)\.(to_(?:q|k|v|out)_lora)\.(down|up)\.weight")


def load(configs: Sequence[AdapterConfig], plan: Plan, reporter: Reporter) -> tuple[Lora, ...]:
    """The LoRAs inside the plan's adapters, at the weights of `configs`; adapters that are not here are fetched.

    Raises ModelError for one that does not fit the UNet, WeightsError for a broken file.
    """
    found = []
    for config, adapter in zip(configs, plan.adapters, strict=False):
        if adapter.face is None or not config.lora:
            continue
        path = _path(adapter, reporter)
        lora = _read(path, weights.stamp(path), targets.of_plan(plan), plan.architecture.name)
        if lora is not None:
            found.append(Lora(LoraConfig(str(path), weight=config.lora), lora, of_adapter=True))
        elif config.lora != 1:
            reporter.note(f"{path.name} has no LoRA inside: its weight is not used")
    return tuple(found)


def check_once(loras: Sequence[Lora], others: Sequence[Lora]) -> None:
    """Raise UsageError where one of `others` is the LoRA that is inside an adapter: it would act twice."""
    for inside in loras:
        for other in others:
            if _alike(inside.file, other.file):
                raise UsageError(
                    f"the LoRA {other.file.name} is inside the adapter {inside.file.name} too, and would act twice",
                    "leave one of them out: --lora, or --ip-lora 0",
                )


def _alike(first: LoraFile, second: LoraFile) -> bool:
    """Whether two files change the same weights by the same numbers, however they were rounded."""
    import torch

    here, there = first.changes[UNET], second.changes.get(UNET, {})
    if here.keys() != there.keys():
        return False
    name = next(iter(here))
    one, other = here[name].tensors, there[name].tensors
    if {part: one[part].shape for part in one} != {part: other[part].shape for part in other}:
        return False
    return all(torch.allclose(one[part].float(), other[part].float(), rtol=1e-2, atol=1e-4) for part in one)


def _path(adapter: AdapterPlan, reporter: Reporter) -> Path:
    if adapter.location.folder is not None:
        return adapter.location.folder / adapter.file
    return locations.fetched(adapter.location, [adapter.file], reporter, False) / adapter.file


@lru_cache(maxsize=2)
def _read(path: Path, _: tuple[int, ...] | None, known: Targets, architecture: str) -> LoraFile | None:
    """The LoRA in an adapter's file; None where there is none, as in portrait adapters."""
    tensors = weights.load_named(path, _NAME)
    if not tensors:
        return None
    modules = [module for part, module in known.shapes if part == UNET]
    attentions = [module.removesuffix(".to_q") for module in modules if module.endswith(".to_q")]
    renamed = {_renamed(name, attentions): tensors[name] for name in sorted(tensors)}
    changes, _unused = file.changes_of(path, renamed, {}, known, architecture)
    digest = _digest(renamed)
    return LoraFile(PurePosixPath(path).stem, digest, digest, changes)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _renamed(name: str, attentions: Sequence[str]) -> str:
    """The name that diffusers gives a tensor of an adapter's LoRA."""
    found = _NAME.fullmatch(name)
    assert found is not None
    number = int(found[1])
    attention = attentions[number] if number < len(attentions) else f"attention {number}"
    return f"unet.{attention}.processor.{found[2]}.{found[3]}.weight"
