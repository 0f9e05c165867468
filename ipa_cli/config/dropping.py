"""`none` in place of a setting's value: as if no weaker source, such as a picture of `--from`, gave any.

In place of reference images it stays what the setting says: the model's own reference is not followed either.
"""

from __future__ import annotations

from typing import Any

from ipa_cli.errors import UsageError

NONE = "none"
NO_IMAGE = (NONE,)
DROPPABLE = (
    *("embeds", "adapter", "mask", "negative_image", "ip_layers", "image_encoder"),
    *("init_image", "inpaint_mask", "pad", "region", "hires"),
    *("lora", "control", "embedding", "lora_dir", "embedding_dir"),
    *("scheduler", "schedule", "preset", "vae", "variant", "revision"),
    *("ip_adapter_subfolder", "ip_adapter_weight_name", "compile_options", "output"),
    *("cache_dir", "cache_remote", "cache_signing_key", "server_token_file"),
)


def drops(name: str, value: Any) -> bool:
    """Whether this value of a setting is `none`. Raises UsageError where others are beside it."""
    if name not in (*DROPPABLE, "image") or not isinstance(value, str | list | tuple):
        return False
    given = [value] if isinstance(value, str) else list(value)
    if NONE in given and len(given) > 1:
        flag = f"--{name.replace('_', '-')}"
        raise UsageError(f"{flag} {NONE} is given beside another {flag}", "leave one of them out; ./none is a file")
    return given == [NONE] and name != "image"
