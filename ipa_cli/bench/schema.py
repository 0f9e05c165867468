"""Whether JSON that somebody may have written by hand has the expected structure."""

from __future__ import annotations

from typing import Any

_MISSING = object()


def first_mismatch(value: Any, schema: Any, name: str = "") -> str | None:
    """The name of the first part of `value` that is missing or of another type than `schema` says; None if all fits.

    A schema is a type or several, a list of one schema for all members, a dict of schemas by name (`...`: for every
    member), or (None, schema) for what may be null.
    """
    if isinstance(schema, tuple) and schema[0] is None:
        return None if value is None else first_mismatch(value, schema[1], name)
    if isinstance(schema, dict) and isinstance(value, dict):
        names = value if ... in schema else schema
        parts = [(value.get(key, _MISSING), schema.get(key, schema.get(...)), f"{name}.{key}") for key in names]
    elif isinstance(schema, list) and isinstance(value, list):
        parts = [(member, schema[0], f"{name}[{number}]") for number, member in enumerate(value)]
    elif not isinstance(schema, dict | list) and isinstance(value, schema):
        return None
    else:
        return name.lstrip(".") or "everything"
    return next(filter(None, (first_mismatch(*part) for part in parts)), None)
