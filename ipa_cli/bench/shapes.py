"""Whether JSON that somebody may have written by hand has the shape that is expected."""

from __future__ import annotations

from typing import Any

_MISSING = object()


def first_odd(value: Any, shape: Any, name: str = "") -> str | None:
    """The name of the first part of `value` that `shape` has and it lacks, or that is of another kind; None if none.

    A shape is a type or several, a list of one shape for all members, a dict of shapes by name (`...`: for every
    member), or (None, shape) for what may be null.
    """
    if isinstance(shape, tuple) and shape[0] is None:
        return None if value is None else first_odd(value, shape[1], name)
    if isinstance(shape, dict) and isinstance(value, dict):
        names = value if ... in shape else shape
        parts = [(value.get(key, _MISSING), shape.get(key, shape.get(...)), f"{name}.{key}") for key in names]
    elif isinstance(shape, list) and isinstance(value, list):
        parts = [(member, shape[0], f"{name}[{number}]") for number, member in enumerate(value)]
    elif not isinstance(shape, dict | list) and isinstance(value, shape):
        return None
    else:
        return name.lstrip(".") or "everything"
    return next(filter(None, (first_odd(*part) for part in parts)), None)
