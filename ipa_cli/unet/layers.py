"""How strongly an IP-Adapter acts on each layer of a UNet: modes, and tables in diffusers' form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ipa_cli.config.modes import WEIGHT_TYPES
from ipa_cli.errors import IpaError, UsageError, suggest
from ipa_cli.unet import weight_types
from ipa_cli.unet.weight_types import Pattern

EXAMPLE = '\'{"down": {"block_2": [0.0, 1.0]}, "up": {"block_0": [0.0, 1.0, 0.0]}}\''


def blocks(unet_config: Mapping[str, Any]) -> dict[str, int]:
    """How many attentions each block with cross-attention has, such as {"down.block_1": 2, "mid": 1}."""
    count = unet_config.get("layers_per_block", 2)
    found = {}
    for part, more in (("down", 0), ("up", 1)):
        kinds = unet_config[f"{part}_block_types"]
        each = [count] * len(kinds) if isinstance(count, int) else list(count)
        if part == "up":
            each.reverse()
        for number, kind in enumerate(kinds):
            if "CrossAttn" in kind:
                found[f"{part}.block_{number}"] = each[number] + more
    if "CrossAttn" in str(unet_config.get("mid_block_type", "UNetMidBlock2DCrossAttn")):
        found["mid"] = 1
    return found


def of_mode(mode: str, known: Mapping[str, int], sdxl: bool = True) -> Pattern:
    """A weight type of ComfyUI, or InstantStyle's layers by their position, so that they exist in every UNet.

    Style is the middle attention of the first up block that has any, layout the last attention of the last such
    down block: of SDXL up_blocks.0.attentions.1 and down_blocks.2.attentions.1. Source: diffusers' IP-Adapter guide.
    """
    if mode in WEIGHT_TYPES:
        return weight_types.factors(mode, known, sdxl)
    if mode == "full":
        return {block: (1.0,) * count for block, count in known.items()}
    ups, downs = ([block for block in known if block.startswith(part)] for part in ("up.", "down."))
    if not ups or not downs:
        raise IpaError(f"this UNet has no layers for --ip-mode {mode}", "choose them with --ip-layers")
    style, layout = min(ups, key=_number), max(downs, key=_number)
    pattern = {}
    if "layout" in mode:
        pattern[layout] = tuple(float(n == known[layout] - 1) for n in range(known[layout]))
    if "style" in mode:
        pattern[style] = tuple(float(n == known[style] // 2) for n in range(known[style]))
    return pattern


def parse(text: str, known: Mapping[str, int]) -> Pattern:
    """A table as diffusers' `set_ip_adapter_scale` takes it, from JSON; what it does not name gets 0.

    Raises UsageError naming the key that is wrong, with the nearest that exists.
    """
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the table of layers is not JSON: {error}", f"--ip-layers {EXAMPLE}") from None
    if not isinstance(table, dict) or not table:
        raise UsageError("the table of layers is no JSON object with an entry", f"--ip-layers {EXAMPLE}")
    pattern: dict[str, tuple[float, ...]] = {}
    parts = sorted({block.partition(".")[0] for block in known})
    for part, value in table.items():
        if part not in parts:
            raise UsageError(f"the table of layers has '{part}'{suggest(part, parts)}", f"parts: {', '.join(parts)}")
        inside = {block.partition(".")[2]: block for block in known if block.partition(".")[0] == part}
        if not isinstance(value, dict):  # for all its blocks
            value = dict.fromkeys(inside, value)
        elif part == "mid":
            raise UsageError("mid is one attention and has no blocks", '{"mid": 1.0}')
        for block, factors in value.items():
            if block not in inside:
                raise UsageError(
                    f"{part} has no '{block}' with attention{suggest(block, inside)}",
                    f"blocks of {part}: {', '.join(inside)}",
                )
            name = inside[block]
            pattern[name] = _factors(name, factors, known[name])
    if not any(factor for factors in pattern.values() for factor in factors):
        raise UsageError("the table of layers is 0 everywhere", "leave it out, or use --scale 0")
    return pattern


def factors(names: Sequence[str], pattern: Pattern) -> list[float]:
    """The factor of each layer in `names`, which are those of `attention.layers`."""
    return [_factor(name.split("."), pattern) for name in names]


def _factor(name: Sequence[str], pattern: Pattern) -> float:
    if name[0] == "mid_block":
        return pattern.get("mid", (0.0,))[0]
    block = pattern.get(f"{name[0].removesuffix('_blocks')}.block_{name[1]}")
    return block[int(name[3])] if block else 0.0


def _factors(block: str, given: Any, count: int) -> tuple[float, ...]:
    many = given if isinstance(given, list) else [given]
    if len(many) not in (1, count):
        raise UsageError(
            f"{block} has {count} attentions and the table gives it {len(many)} numbers",
            f"write {[1.0] * count}, or one number for all",
        )
    for number in many:
        if type(number) not in (int, float) or not math.isfinite(number) or not 0 <= number <= 10:
            raise UsageError(f"{block} has {json.dumps(number)[:40]} in the table of layers", "numbers go from 0 to 10")
    return tuple(float(number) for number in many) * (count // len(many))


def _number(block: str) -> int:
    return int(block.rpartition("_")[2])
