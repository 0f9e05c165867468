"""The command that draws a served picture again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ipa_cli.config import FIELDS, Settings
from ipa_cli.config.comparison import OF_THE_PROCESS
from ipa_cli.config.privacy import public_settings
from ipa_cli.config.values import flag_of

# Settings that say where and how often to draw, and nothing of how one picture looks.
LEFT_OUT = ("num_images", "batch_size", "output", "preview", *OF_THE_PROCESS)


def command_line(settings: Settings, seed: int) -> str:
    """`ipa generate` with what a request sets; reference pictures have the names that they came with."""
    drawn = replace(settings, seed=seed)
    named = [name for name in FIELDS if name not in LEFT_OUT and getattr(drawn, name) != FIELDS[name].default]
    words = [word for name, value in public_settings(drawn, named).items() for word in _words(name, value)]
    return shlex.join(["ipa", "generate", *words])


def _words(name: str, value: Any) -> Iterator[str]:
    flag = flag_of(name)
    if isinstance(value, bool):
        yield flag if value else f"--no-{flag[2:]}"
        return
    for one in value if isinstance(value, list) else [value]:
        text = str(int(one) if isinstance(one, float) and one.is_integer() else one)
        if name == "prompt" and text.startswith("@"):
            text = f"@{text}"  # `@fox` alone reads the file fox
        if text.startswith("-"):
            yield f"{flag}={text}"
        else:
            yield from (flag, text)
