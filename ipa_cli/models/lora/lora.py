"""A LoRA with its strengths, as a request has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ipa_cli.config import LoraConfig
from ipa_cli.models.lora import find, targets
from ipa_cli.models.lora.file import LoraFile, read
from ipa_cli.models.lora.targets import UNET
from ipa_cli.models.plan import Plan
from ipa_cli.result import Reporter


@dataclass(frozen=True)
class Lora:
    """A LoRA file, read and checked, and how strongly it acts."""

    config: LoraConfig
    file: LoraFile
    of_adapter: bool = False  # inside the file of a FaceID adapter, which says its weight

    def times(self, factor: float) -> Lora:
        """The same LoRA with its weights multiplied; that of an adapter stays as it is."""
        if self.of_adapter:
            return self
        text = self.config.text_weight
        text = None if text is None else text * factor
        return replace(self, config=replace(self.config, weight=self.weight * factor, text_weight=text))

    @property
    def weight(self) -> float:
        """Its strength in the UNet."""
        return self.config.weight

    @property
    def text_weight(self) -> float:
        """Its strength in the text encoders."""
        return self.config.weight if self.config.text_weight is None else self.config.text_weight

    @property
    def changes_text(self) -> bool:
        """Whether it changes how prompts are encoded."""
        return any(self.strength(part) for part in self.file.changes if part != UNET)

    def strength(self, part: str) -> float:
        """Its strength in one part of a model, 0 where it changes nothing of it."""
        if part not in self.file.changes:
            return 0.0
        return self.weight if part == UNET else self.text_weight


def load(configs: Sequence[LoraConfig], plan: Plan, reporter: Reporter) -> tuple[Lora, ...]:
    """Find, fetch and read LoRAs for a planned model. Raises what `find.find` and `file.read` do."""
    if not configs:
        return ()
    paths = [find.find(config, reporter) for config in configs]
    known, name = targets.of_plan(plan), plan.architecture.name
    found = tuple(Lora(config, read(path, known, name)) for config, path in zip(configs, paths, strict=True))
    for unused in dict.fromkeys((lora.file.name, lora.file.unused) for lora in found if lora.file.unused):
        reporter.warn(_said(*unused))
    for name, trigger in dict.fromkeys((lora.file.name, lora.file.trigger) for lora in found if lora.file.trigger):
        reporter.note(f"{name} was trained with the words: {trigger}")
    return found


def warn_of_twins(loras: Sequence[Lora], reporter: Reporter) -> None:
    """Warn where the same file is there several times, as its weights add up."""
    for digest in dict.fromkeys(lora.file.sha256 for lora in loras):
        same = [lora for lora in loras if lora.file.sha256 == digest]
        if len(same) > 1:
            total = sum(lora.weight for lora in same)
            reporter.warn(f"the LoRA {same[0].file.name} is given {len(same)} times: its weights add up to {total:g}")


def _said(name: str, unused: tuple[str, ...]) -> str:
    more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
    return f"{name}: not used, since they change no weight: {', '.join(one[:80] for one in unused[:3])}{more}"


def acting(loras: Sequence[Lora], part: str) -> tuple[tuple[str, float], ...]:
    """What a part of a model depends on: the digests of the LoRAs that change it, and their strengths."""
    return tuple((lora.file.sha256, strength) for lora in loras if (strength := lora.strength(part)))
