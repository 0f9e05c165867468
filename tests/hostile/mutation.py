"""Random damage to bytes and to JSON; everything comes from the generator handed in, so that a case can be repeated."""

from __future__ import annotations

import json
from random import Random
from typing import Any

DEEP = 20_000
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**40, 1e308, -0.5, "", " ", "\0", "\ud800", "../../x", "/etc/passwd",
    "a" * 100_000,
    "{0.__class__}", "%s%n", "$(touch $HOSTILE_CANARY)", [], {}, [[]], {"": ""}, ["x"] * 1000, "http://127.0.0.1:1/x",
)  # fmt: skip


def damaged(data: bytes, random: Random) -> bytes:
    """The bytes with a few of them flipped, cut, doubled, moved or replaced."""
    out = bytearray(data)
    for _ in range(random.randint(1, 4)):
        if not out:
            return bytes(random.randbytes(random.randint(0, 64)))
        at, length = random.randrange(len(out)), random.randint(1, 64)
        match random.randrange(6):
            case 0:
                out[at] ^= 1 << random.randrange(8)
            case 1:
                del out[at:]
            case 2:
                del out[at : at + length]
            case 3:
                out[at:at] = out[at : at + length]
            case 4:
                out[at : at + length] = random.randbytes(length)
            case 5:
                out[at : at + 8] = random.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7))
    return bytes(out)


def json_damaged(text: str, random: Random) -> str:
    """JSON in which one value, somewhere, is another, is gone, or goes too deep; at times it is JSON no longer."""
    if random.random() < 0.1:
        return damaged(text.encode(), random).decode("utf-8", "replace")
    if random.random() < 0.05:
        return "[" * DEEP + "]" * DEEP
    value = json.loads(text)
    places = list(_places(value))
    if not places:
        return json.dumps(random.choice(VALUES))
    holder, key = random.choice(places)
    if isinstance(holder, dict) and random.random() < 0.2:
        del holder[key]
    else:
        holder[key] = random.choice(VALUES)
    return json.dumps(value)


def _places(value: Any) -> Any:
    """Every (container, key) below `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)
