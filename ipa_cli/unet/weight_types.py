"""ComfyUI's weight types: how strongly an IP-Adapter acts on each attention of a UNet, and on which half.

Source: ComfyUI_IPAdapter_plus, `ipadapter_execute` and `ipadapter_attention`. ComfyUI numbers attentions in the order
of a step, down, middle, up, from 0: 11 of them in SDXL, 16 in SD 1.5. Its tables for style and composition have these
numbers; here they are places, so that UNets with other blocks have them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ipa_cli.errors import IpaError

# Per block, such as "down.block_2" or "mid", a factor for each of its attentions; a block not named has zeros.
Pattern = Mapping[str, tuple[float, ...]]

LEAST = 0.05  # of the ease types
WEAK = 0.2
FAINT = 0.1  # of the precise types
# The share of the attentions that lie before one -> how much it is eased.
EASED: Mapping[str, Callable[[float], float]] = {
    "ease-in": lambda before: 1 - before,
    "ease-out": lambda before: before,
    "ease-in-out": lambda before: 1 - abs(2 * before - 1),
    "reverse-in-out": lambda before: abs(2 * before - 1),
}
WEAKENED = {
    "weak-input": ("down",),
    "weak-middle": ("mid",),
    "weak-output": ("up",),
    "strong-middle": ("down", "up"),
}
COMPOSED = ("composition", "style-and-composition", "style-transfer-precise", "composition-precise")
STYLED = ("style-transfer", "style-and-composition", "style-transfer-precise", "composition-precise")


@dataclass(frozen=True)
class Attention:
    """One place of a UNet where an adapter acts: number `index` of a block."""

    block: str
    index: int

    @property
    def part(self) -> str:
        """Down, mid or up."""
        return self.block.partition(".")[0]


def in_order(known: Mapping[str, int]) -> list[Attention]:
    """The attentions of a UNet in ComfyUI's order; `known` are its blocks, see `layers.blocks`."""
    return [Attention(block, index) for block in sorted(known, key=_place) for index in range(known[block])]


def factors(name: str, known: Mapping[str, int], sdxl: bool) -> Pattern:
    """The factor of each attention for the weight type `name`, for SDXL or else SD 1.5.

    Raises IpaError for a UNet without the blocks that a style or composition is in.
    """
    order = in_order(known)
    if name == "linear":
        return _pattern(known, dict.fromkeys(order, 1.0))
    if name in EASED:
        ease = EASED[name]
        each = {one: LEAST + (1 - LEAST) * ease(number / len(order)) for number, one in enumerate(order)}
        return _pattern(known, each)
    if name in WEAKENED:
        return _pattern(known, {one: WEAK if one.part in WEAKENED[name] else 1.0 for one in order})
    composition, style = _composition(name, known, sdxl), _style(name, known, sdxl)
    if name == "strong-style-transfer":
        return _pattern(known, {one: 1.0 for one in order if one not in composition})
    each = dict.fromkeys(order, FAINT) if name == "composition-precise" else {}
    each |= composition if name in COMPOSED else {}
    each |= style if name in STYLED else {}
    return _pattern(known, each)


def on_negative(name: str, known: Mapping[str, int], sdxl: bool) -> Pattern:
    """1 for each attention where the negative half sees the reference, and the positive one nothing; else nothing."""
    if name not in ("style-transfer-precise", "composition-precise"):
        return {}
    composition = _composition(name, known, sdxl)
    moved = [one for one in in_order(known) if (one in composition) == (name == "style-transfer-precise")]
    return _pattern(known, dict.fromkeys(moved, 1.0))


def _composition(name: str, known: Mapping[str, int], sdxl: bool) -> dict[Attention, float]:
    """The last attention on the way down; in SD 1.5 its block with it, weaker."""
    last = _blocks(name, known, "down")[-1]
    first, final = range(known[last] - 1), known[last] - 1
    return {**({} if sdxl else {Attention(last, index): 0.25 for index in first}), Attention(last, final): 1.0}


def _style(name: str, known: Mapping[str, int], sdxl: bool) -> dict[Attention, float]:
    """The middle attention of the first block up; in SD 1.5 its last, the blocks above, and the first ones down."""
    ups, downs = _blocks(name, known, "up"), _blocks(name, known, "down")
    if sdxl:
        return {Attention(ups[0], known[ups[0]] // 2): 1.0}
    others = [Attention(block, index) for block in (*downs[:-1], *ups[1:]) for index in range(known[block])]
    return dict.fromkeys([*others, Attention(ups[0], known[ups[0]] - 1)], 1.0)


def _blocks(name: str, known: Mapping[str, int], part: str) -> list[str]:
    found = sorted((block for block in known if block.startswith(f"{part}.")), key=_place)
    if not found:
        raise IpaError(f"this UNet has no layers for --ip-mode {name}", "choose them with --ip-layers")
    return found


def _pattern(known: Mapping[str, int], each: Mapping[Attention, float]) -> Pattern:
    every = {block: tuple(each.get(Attention(block, index), 0.0) for index in range(known[block])) for block in known}
    return {block: found for block, found in every.items() if any(found)}


def _place(block: str) -> tuple[int, int]:
    part, _, rest = block.partition(".block_")
    return ("down", "mid", "up").index(part), int(rest or 0)
