"""What one `--lora` says: a file, and how strongly it acts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ipa_cli.config import option_text
from ipa_cli.config.checks import between, inside, unicode
from ipa_cli.errors import IpaError, UsageError

KEYS = ("weight", "text_weight")
EXAMPLE = "--lora style.safetensors,weight=0.8"
WEIGHT = between(-20, 20)


@dataclass(frozen=True)
class LoraConfig:
    """A LoRA as it is asked for: a file, a folder with one file in it, or a hub repository.

    `file` is named within a folder or repository. `weight` multiplies what it changes in the UNet, `text_weight` in the
    text encoders; None is the same.
    """

    source: str
    file: str | None = None
    weight: float = 1.0
    text_weight: float | None = None

    def __str__(self) -> str:
        """The text of `--lora`, which `parse` reads back."""
        parts = [self.source if self.file is None else f"{self.source}:{self.file}"]
        if self.weight != 1 or self.text_weight is not None:
            parts.append(f"weight={option_text.shown(float(self.weight))}")
        if self.text_weight is not None:
            parts.append(f"text_weight={option_text.shown(float(self.text_weight))}")
        return ",".join(parts)

    def with_places(self, change: Callable[[str, str], str]) -> LoraConfig:
        """The same LoRA with `change("lora", place)` in place of its file, folder or repository."""
        return replace(self, source=change("lora", self.source))


def parse(text: str, where: str, error: type[IpaError] = UsageError) -> LoraConfig:
    """The LoRA that `text` specifies. Raises `error`, which names `where` the text came from."""
    first, pairs = option_text.split(text, KEYS, where, error)
    weights = {key: option_text.number(value, f"{where}: {key}", error) for key, value in pairs}
    if len(weights) < len(pairs):
        raise error(f"{where} has a weight twice", f"give it once: {EXAMPLE}")
    for key, value in weights.items():
        if problem := WEIGHT(value):
            raise error(f"{where}: {key} {value:g}: {problem}", EXAMPLE)
    source, file = option_text.location(first, where, error)
    problem = "expected a file, folder or repository" if not source else unicode(source)
    if problem := problem or (inside(file) if file is not None else None):
        raise error(f"{where}: {problem}", EXAMPLE)
    return LoraConfig(source, file, **weights)
