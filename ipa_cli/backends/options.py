"""The options of a backend: presets, and changes to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ipa_cli.errors import UsageError


def read_options(
    backend: str, given: str | Mapping[str, Any] | None, presets: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Options of `backend` from a preset's name, JSON text or a mapping, on top of its first preset.

    A mapping may name the preset it starts from as "preset". Raises UsageError for an unknown preset or option
    and for a value that is not of the kind of its default (a default of None takes any).
    """
    default = next(iter(presets))
    if given is None or given == "":
        given = {}
    if isinstance(given, str) and not given.lstrip().startswith("{"):
        given = {"preset": given}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"the compile options are not JSON: {error}",
                f"type a preset ({', '.join(presets)}) or JSON such as '{json.dumps({'preset': default})}'",
            ) from None
    if not isinstance(given, Mapping):
        raise UsageError("the compile options are not a JSON object", f"presets: {', '.join(presets)}")
    changes = dict(given)
    name = changes.pop("preset", default)
    if not isinstance(name, str) or name not in presets:
        raise UsageError(f"{backend} has no preset {name!r}", f"presets: {', '.join(presets)}")
    options = dict(presets[name])
    for key, value in changes.items():
        if key not in options:
            raise UsageError(f"{backend} has no option {key!r}", f"known: preset, {', '.join(options)}")
        known = options[key]
        if known is not None and type(value) is not type(known):
            raise UsageError(
                f"{backend}'s option {key} is {value!r}, not {type(known).__name__}",
                f"for example {json.dumps({key: known})}",
            )
        options[key] = value
    return options


def check_sizes(backend: str, sizes: Any) -> None:
    """Raise UsageError unless the option `dynamic` is None or the smallest and largest size in pixels."""
    if sizes is not None and not (
        isinstance(sizes, list | tuple)
        and len(sizes) == 2
        and all(type(size) is int and size % 8 == 0 for size in sizes)
        and 64 <= sizes[0] < sizes[1] <= 8192
    ):
        raise UsageError(
            f"{backend}'s option dynamic is {sizes!r}",
            "give the smallest and largest size in pixels, multiples of 8 from 64 to 8192, such as [256, 1536]",
        )


def check_tokens(backend: str, tokens: Any) -> None:
    """Raise UsageError unless the option `text` is None or the smallest and largest number of text tokens."""
    if tokens is not None and not (
        isinstance(tokens, list | tuple)
        and len(tokens) == 2
        and all(type(count) is int for count in tokens)
        and 2 <= tokens[0] < tokens[1] <= 4096
    ):
        raise UsageError(
            f"{backend}'s option text is {tokens!r}",
            "give the smallest and largest number of tokens, 77 for each chunk of a prompt, such as [77, 308]",
        )
