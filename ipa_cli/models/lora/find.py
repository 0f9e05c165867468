"""Where a LoRA is."""

from __future__ import annotations

from pathlib import Path

from ipa_cli.config import LoraConfig
from ipa_cli.errors import UsageError
from ipa_cli.models import named_file
from ipa_cli.models.lora.file import PEFT_CONFIG, PEFT_STEM
from ipa_cli.result import Reporter

DEMO = "demo"  # the one that comes with the demo model
# With the names of diffusers and of PEFT.
USUAL = ("pytorch_lora_weights.safetensors", f"{PEFT_STEM}.safetensors")
KIND = named_file.Kind("LoRA", "--lora", USUAL, beside=PEFT_CONFIG)


def find(config: LoraConfig, reporter: Reporter) -> Path:
    """The file of a LoRA on disk; "demo" is the one that comes along.

    Raises UsageError for a file in that, and what `named_file.find` does.
    """
    if config.source == DEMO:
        if config.file is not None:
            raise UsageError(f"the LoRA '{DEMO}' is one: it has no '{config.file}'", f"say --lora {DEMO}")
        return Path(__file__).parents[2] / "demo" / "lora" / "outlines.safetensors"
    return named_file.find(KIND, config.source, config.file, reporter)
