"""References that are drawn one by one, each in a request of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ipa_cli.client.payload import Carried, Files
from ipa_cli.config import Settings
from ipa_cli.config.units import plural
from ipa_cli.errors import UsageError
from ipa_cli.pipeline import per_picture


def apart(settings: Settings, carried: Carried) -> list[Carried]:
    """What is carried for each reference, where `--image-per-picture` says so; else all of it at once.

    Raises UsageError where adapters have different numbers of references, or other weights than references.
    """
    if not settings.image_per_picture:
        return [carried]
    several = "adapter" in carried.named
    adapters: list[Mapping[str, Any]] = carried.named["adapter"] if several else [carried.named]
    key = "weight" if several else "image_weight"
    pictures = [carried.files.meant(used.get("image") or ()) for used in adapters]
    weights = [used.get(key) or () for used in adapters] if several else [settings.image_weight]
    for names, many in zip(pictures, weights, strict=True):
        if many and len(many) != len(names):
            raise UsageError(
                f"{len(many)} image weights for {plural(len(names), 'reference picture')}",
                "give one --image-weight for each picture, in their order, or none",
            )

    def of(number: int) -> Carried:
        each = [
            {**used, **_at("image", names, number), **_at(key, many, number)}
            for used, names, many in zip(adapters, pictures, weights, strict=True)
        ]
        named = {**carried.named, "adapter": each} if several else each[0]
        return Carried(named, _used(carried.files, set(_texts(named))))

    return [of(number) for number in range(per_picture.count(settings, list(map(len, pictures))))]


def _at(key: str, values: Sequence[Any], number: int) -> dict[str, Any]:
    """One of the values, or the single one for all pictures; nothing where there is none."""
    return {key: [values[number if len(values) > 1 else 0]]} if values else {}


def _used(files: Files, names: set[str]) -> Files:
    """The files that these names stand for."""
    members = {name: meant for name, meant in files.members.items() if name in names}
    wanted = names.union(*members.values())
    return Files({name: data for name, data in files.data.items() if name in wanted}, members)


def _texts(value: Any) -> Iterator[str]:
    """All texts in JSON's values, but for the keys of mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)
