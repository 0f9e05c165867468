"""What a client reads of the answers of `ipa serve`. They are foreign: `fits` says whether all of it is there."""

from __future__ import annotations

from typing import Any

# A type, None, alternatives as a tuple, the elements of a list as [shape], or keys that a mapping has among others.
Shape = Any

NUMBER = (int, float)
VERSION = {"version": str}
ABOUT = {
    **VERSION,
    "model": str,
    "adapter": (str, None),
    "settings": {"precision": str, "backend": str},
    "engines": [{"device": str, "dtype": str}],
    "limits": {"upload": int, "pictures": int},
}
ERROR = {"type": str, "message": str, "hint": str}
STATE = {
    "id": str,
    "status": str,
    "position": (int, None),
    "step": int,
    "steps": int,
    "notes": [str],
    "warnings": [str],
    "error": (None, ERROR),
    "request": {
        "prompt": str,
        "scale": NUMBER,
        "steps_taken": int,
        "step_cache": str,
        "steps_saved": int,
        "digests": [str],
        "references": [{"source": str}],
    },
}
DONE = {
    "pictures": [
        {
            **{"url": str, "sha256": str, "prompt": str, "seed": int, "scale": NUMBER, "width": int, "height": int},
            "references": [str],
        }
    ],
    "timings": {"prepare_s": NUMBER, "steps_s": NUMBER, "decode_s": NUMBER},
    "graph": {"backend": str, "why": str},
    "memory": {"peak_gib": NUMBER},
    "device": str,
}


def fits(value: Any, shape: Shape) -> bool:
    """Whether a value from JSON has all that a shape names."""
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(one, shape[0]) for one in value)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(name in value and fits(value[name], shape[name]) for name in shape)
    return value is None if shape is None else isinstance(value, shape)
