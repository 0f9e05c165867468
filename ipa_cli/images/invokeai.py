"""Settings from InvokeAI's pictures: one JSON object, `invokeai_metadata`, since its version 3."""

from __future__ import annotations

from typing import Any

from ipa_cli.images.comfyui import as_kind
from ipa_cli.images.metadata import parse_json
from ipa_cli.models import schedulers

MODES = {"full": "full", "style": "style", "composition": "layout"}
_PLAIN = (
    ("prompt", "positive_prompt", str),
    ("negative_prompt", "negative_prompt", str),
    ("width", "width", int),
    ("height", "height", int),
    ("seed", "seed", int),
    ("steps", "steps", int),
    ("guidance_scale", "cfg_scale", float),
    ("strength", "strength", float),
)
_SILENT = ("generation_mode", "app_version", "rand_device", "scheduler", "model", "ipAdapters", "metadata_version")


def read(text: str) -> tuple[dict[str, Any], list[str]]:
    """Settings under our names, and notes on what is left out. Raises ValueError for anything but such object."""
    found = parse_json(text, lenient=True)
    if not isinstance(found, dict):
        raise ValueError("it is not an object")
    values = {ours: as_kind(found.get(theirs), kind) for ours, theirs, kind in _PLAIN}
    left_out: list[str] = []
    if isinstance(found.get("model"), dict):
        name = found["model"].get("name") or found["model"].get("model_name")
        left_out.append(f"model {name} (name one with --model)")
    sampling, unknown = schedulers.of_program(as_kind(found.get("scheduler"), str), None)
    values.update(sampling)
    left_out += unknown
    adapters = found.get("ipAdapters")
    for number, adapter in enumerate(adapters if isinstance(adapters, list) else []):
        if isinstance(adapter, dict):
            _put_adapter(adapter, number, values, left_out)
    known = {theirs for _, theirs, _ in _PLAIN} | set(_SILENT)
    left_out += [name for name, value in found.items() if name not in known and value]
    return {name: value for name, value in values.items() if value is not None}, left_out


def _put_adapter(adapter: dict[str, Any], number: int, values: dict[str, Any], left_out: list[str]) -> None:
    image = adapter.get("image")
    name = image.get("image_name") if isinstance(image, dict) else None
    left_out.append(f"reference picture {name or 'without a name'} (name it with --image)")
    if number:
        left_out.append(f"the scale {adapter.get('weight')} of it")
        return
    values["scale"] = as_kind(adapter.get("weight"), float)
    values["ip_start"] = as_kind(adapter.get("begin_step_percent"), float)
    values["ip_end"] = as_kind(adapter.get("end_step_percent"), float)
    mode = as_kind(adapter.get("method"), str)
    if mode in MODES:
        values["ip_mode"] = MODES[mode]
    elif mode is not None:
        left_out.append(f"method {mode}")
