"""`none` in place of a setting's value: as if no weaker source, such as a picture of `--from`, gave any."""

from __future__ import annotations

from typing import Any

from ipa_cli.errors import UsageError

NONE = "none"
DROPPABLE = (
    *("image", "embeds", "adapter", "mask", "negative_image", "ip_layers", "image_encoder"),
    *("init_image", "inpaint_mask", "pad", "region", "hires"),
    *("lora", "control", "embedding", "lora_dir", "embedding_dir"),
    *("scheduler", "schedule", "preset", "vae", "variant", "revision"),
)


def drops(name: str, value: Any) -> bool:
    """Whether this value of a setting is `none`. Raises UsageError where others are beside it."""
    if name not in DROPPABLE or not isinstance(value, str | list | tuple):
        return False
    given = [value] if isinstance(value, str) else list(value)
    if NONE in given and len(given) > 1:
        flag = f"--{name.replace('_', '-')}"
        raise UsageError(f"{flag} {NONE} is given beside another {flag}", "leave one of them out; ./none is a file")
    return given == [NONE]
