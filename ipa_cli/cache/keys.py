"""The key of a compiled graph: the factors it depends on, their digest, and differences between two keys as text.

Factors are opt-out: whatever is known counts, unless it is named as harmless. A factor too many costs a compile, a
factor too few costs a wrong picture.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from types import MappingProxyType
from typing import Any

Scalar = str | int | float | bool | None
Factor = Scalar | Sequence[Scalar]

ABSENT = "absent"
_SLUG = re.compile(r"[a-z0-9_]([a-z0-9_.+-]{0,79})")
_SHORT = 48
_FOR_PEOPLE = {"image tokens": "tokens of the reference pictures", "text tokens": "tokens of the prompt"}
_SCALARS = {str, int, bool, float, type(None)}


@dataclass(frozen=True, eq=False)
class GraphKey:
    """The identity of one compiled graph.

    `backend`, `gpu` and `shape` are slugs that name the folder; `factors` maps a name such as "torch" to a scalar or
    a flat list (see `flatten`). Keys are equal when their digests are. Raises ValueError on an unsafe slug and
    TypeError on a factor that JSON cannot hold.
    """

    backend: str
    gpu: str
    shape: str
    factors: Mapping[str, Factor]

    def __post_init__(self) -> None:
        for part in (self.backend, self.gpu, self.shape):
            if not isinstance(part, str) or not _SLUG.fullmatch(part):
                raise ValueError(f"not a slug: {part!r}")
        factors = {name: _plain(name, value) for name, value in self.factors.items()}
        object.__setattr__(self, "factors", MappingProxyType(factors))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GraphKey) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the canonical JSON, 64 hex digits."""
        return hashlib.sha256(canonical(self.as_dict()).encode()).hexdigest()

    @property
    def short(self) -> str:
        """The first 16 digits of the digest: what people type and folders carry."""
        return self.digest[:16]

    @property
    def folder(self) -> str:
        """Where the graph lies below the store's root; for people, the digest decides."""
        return f"{self.backend}/{self.gpu}/{self.shape}-{self.short}"

    def as_dict(self) -> dict[str, Any]:
        """The key as JSON data; `from_dict` takes it back."""
        return {
            "backend": self.backend,
            "gpu": self.gpu,
            "shape": self.shape,
            "factors": dict(self.factors),
        }


def from_dict(data: Any) -> GraphKey:
    """The key that `as_dict` wrote. Raises ValueError when `data` is anything else."""
    validate(data)
    return GraphKey(**data)


def validate(data: Any) -> None:
    """Raise ValueError unless `from_dict` takes `data`, parsed JSON. Quick, for listings of many keys."""
    if not isinstance(data, dict) or data.keys() != {"backend", "gpu", "shape", "factors"}:
        raise ValueError("not a graph key")
    factors, slugs = data["factors"], (data["backend"], data["gpu"], data["shape"])
    if not all(isinstance(part, str) and _SLUG.fullmatch(part) for part in slugs):
        raise ValueError("not a slug in the key")
    if not isinstance(factors, dict):
        raise ValueError("the factors are not a table")
    lists = [value for value in factors.values() if type(value) is list]
    kinds = set(map(type, factors.values())) - {list} | set(map(type, chain.from_iterable(lists)))
    if not kinds <= _SCALARS:
        raise ValueError("a factor is neither a scalar nor a flat list")
    if float in kinds:
        floats = [value for value in chain(factors.values(), *lists) if type(value) is float]
        if not all(map(math.isfinite, floats)):
            raise ValueError("a factor is not a finite number")


def canonical(data: Any) -> str:
    """The one JSON text of `data`: sorted, without spaces, ASCII, no NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def flatten(facts: Mapping[str, Any], opt_out: Iterable[str] = ()) -> dict[str, Factor]:
    """Nested facts as flat factors: {"unet": {"sample_size": 128}} becomes {"unet.sample_size": 128}.

    Names in `opt_out`, with all below them, are left out. Raises ValueError when one of them names nothing, so that a
    renamed fact cannot quietly count or be quietly ignored, and TypeError on a value that JSON cannot hold.
    """
    leaves = list(_leaves("", facts))
    flat = dict(leaves)
    if len(flat) < len(leaves):
        raise ValueError("two facts have the same name")
    for name in opt_out:
        ignored = [key for key in flat if key == name or key.startswith(f"{name}.")]
        if not ignored:
            raise ValueError(f"nothing to leave out is called {name!r}")
        for key in ignored:
            del flat[key]
    return flat


def list_differences(have: GraphKey, want: GraphKey) -> list[str]:
    """What would have to change for `have` to be `want`, one phrase per factor: "torch 2.11.0 → 2.13.0".

    The shape only abbreviates the sizes, and is named only where nothing else differs.
    """
    parts = [(name, getattr(have, name), getattr(want, name)) for name in ("backend", "gpu")]
    for name in sorted(have.factors.keys() | want.factors.keys()):
        parts.append((name, have.factors.get(name, ABSENT), want.factors.get(name, ABSENT)))
    found = [describe_change(name, old, new) for name, old, new in parts if canonical(old) != canonical(new)]
    return found or ([describe_change("shape", have.shape, want.shape)] if have.shape != want.shape else [])


def summarize_differences(differences: Sequence[str]) -> str:
    """Differences in one line; of many within one part, such as the UNet's configuration, only the number."""
    wholes = [phrase.split()[0].rpartition(".")[0].partition(".")[0] for phrase in differences]
    phrases = [
        f"{whole}: {wholes.count(whole)} differences" if whole and wholes.count(whole) > 2 else phrase
        for whole, phrase in zip(wholes, differences, strict=True)
    ]
    return ", ".join(dict.fromkeys(phrases))


def describe_change(name: str, old: Factor, new: Factor) -> str:
    """One difference in words; of two lists only what was taken away and what was added."""
    if name == "code":  # nobody can read its digest
        return "ipa's own code has changed"
    name = _FOR_PEOPLE.get(name, name)
    if any(isinstance(item, str) for item in (*_items(old), *_items(new))):
        gone = [f"-{item}" for item in _items(old) if item not in _items(new)]
        come = [f"+{item}" for item in _items(new) if item not in _items(old)]
        if gone or come:
            return f"{name} {_shorten(' '.join(gone + come))}"
    before, after = _shorten(_text(old)), _shorten(_text(new))
    return f"{name} {before} → {after}" if before != after else f"{name} differs after {before}"


def _leaves(prefix: str, value: Any) -> Iterable[tuple[str, Factor]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{prefix}.{name}" if prefix else str(name), inner)
    elif isinstance(value, list | tuple) and any(isinstance(item, list | tuple | Mapping) for item in value):
        for number, inner in enumerate(value):
            yield from _leaves(f"{prefix}.{number}", inner)
    else:
        yield prefix, _plain(prefix, value)


def _plain(name: str, value: Any) -> Factor:
    """`value` as JSON would give it back. Subclasses such as `torch.__version__`'s become their plain type."""
    if isinstance(value, list | tuple):
        return [_scalar(name, item) for item in value]
    return _scalar(name, value)


def _scalar(name: str, value: Any) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            if isinstance(value, float) and not math.isfinite(value):
                break
            return kind(value)
    raise TypeError(f"the factor {name!r} is not JSON: {value!r}")


def _items(value: Factor) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _text(value: Factor) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in (ABSENT, [], ()):
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else canonical(value)


def _shorten(text: str) -> str:
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"
