"""What our kernels are launched with, by CUDA compute capability, and what else may be chosen.

The values for 9.0 were measured on an H100, those for cross attention, norms and the decoder on an H200. The others
were compiled for their cards without one, see `.ci/capabilities`: within a block's shared memory, and without registers
that spill where others do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ipa_cli.errors import UsageError

KIB = 1024


class CrossAttention(NamedTuple):
    """Rows of the query and text tokens that a block takes at once."""

    rows: int
    text_block: int
    warps: int


class Geglu(NamedTuple):
    """A tile: `rows` x `width` of values and as many gates, `depth` at a time, `group` tiles below each other."""

    rows: int
    width: int
    depth: int
    group: int
    warps: int
    stages: int
    descriptors: bool  # whether it reads through descriptors (TMA)


class GateQuantize(NamedTuple):
    """Warps of the block that takes a row."""

    warps: int


class NormQuantize(NamedTuple):
    """Rows that a block takes at once."""

    rows: int
    warps: int


Choice = CrossAttention | Geglu | GateQuantize | NormQuantize | None  # None: torch's own operations
KINDS: dict[str, Any] = {
    "cross_attention": CrossAttention,
    "geglu": Geglu,
    "gate_quantize": GateQuantize,
    "norm_quantize": NormQuantize,
}


@dataclass(frozen=True)
class Card:
    """GPUs of one compute capability; of a kernel's choices the first is used unless the option `tuning` names one."""

    shared_memory: int  # bytes that a block may have
    cross_attention: tuple[CrossAttention | None, ...] = (None,)
    geglu: tuple[Geglu | None, ...] = (None,)
    gate_quantize: tuple[GateQuantize | None, ...] = (None,)  # with fp8 alone
    norm_quantize: tuple[NormQuantize | None, ...] = (None,)  # with fp8 alone
    hopper: bool = False  # kernels for wgmma: fp8 convolutions, and products whose scales are by rows or by blocks
    decoder: bool = False  # our kernels for a decoder's norms, sums and output; else torch's compiler makes them


class Tuning(NamedTuple):
    """The choice for each kernel on one GPU."""

    cross_attention: CrossAttention | None = None
    geglu: Geglu | None = None
    gate_quantize: GateQuantize | None = None
    norm_quantize: NormQuantize | None = None
    hopper: bool = False


_WIDE_CROSS = CrossAttention(128, 128, 4)
# 128 rows in 4 warps spill registers with mma.sync, so everywhere but on 9.0 and 10.0.
_CROSS = (
    CrossAttention(128, 128, 8),
    CrossAttention(64, 128, 4),
    CrossAttention(64, 64, 4),
    CrossAttention(64, 32, 4),
    None,
)
_POINTERS = (
    None,
    Geglu(128, 64, 32, 8, 4, 3, False),
    Geglu(128, 64, 32, 8, 8, 3, False),
    Geglu(128, 64, 64, 8, 8, 3, False),
    Geglu(64, 64, 64, 8, 4, 3, False),
)
_GATE = tuple(map(GateQuantize, (8, 4, 16)))

TABLE: dict[tuple[int, int], Card] = {
    (8, 0): Card(163 * KIB, _CROSS, _POINTERS),
    (8, 6): Card(99 * KIB, _CROSS, _POINTERS),
    (8, 9): Card(99 * KIB, _CROSS, _POINTERS, _GATE),
    (9, 0): Card(
        227 * KIB,
        (CrossAttention(64, 128, 4), CrossAttention(128, 128, 8), _WIDE_CROSS, None),
        (Geglu(128, 128, 64, 16, 8, 4, True), Geglu(128, 128, 64, 16, 8, 3, True), None),
        _GATE,
        (NormQuantize(1, 1), None),
        hopper=True,
        decoder=True,
    ),
    (10, 0): Card(227 * KIB, (_WIDE_CROSS, *_CROSS), (None, Geglu(128, 128, 64, 16, 8, 3, True)), _GATE),
    (12, 0): Card(99 * KIB, _CROSS, (*_POINTERS, Geglu(128, 64, 64, 16, 8, 3, True)), _GATE),
}
OLDER = Card(48 * KIB)  # before 8.0 Triton's code for our kernels needs more shared memory than there is


def card(capability: tuple[int, int]) -> Card:
    """The table's card; for a capability that it does not have, the nearest older one of the same generation."""
    if capability < (8, 0):
        return OLDER
    same = [known for known in TABLE if known <= capability and known[0] == capability[0]]
    if same:
        return TABLE[max(same)]
    return Card(99 * KIB, _CROSS, (None,), _GATE)


def chosen(capability: tuple[int, int], options: Mapping[str, Any] | None = None) -> Tuning:
    """The choices for a GPU, with those of `options` in place of the table's first.

    Raises UsageError for a choice that the table does not have for it.
    """
    known, given = card(capability), check(options or {})
    for name, choice in given.items():
        if choice not in getattr(known, name):
            raise UsageError(
                f"the tuning of {name} is not for compute capability {capability[0]}.{capability[1]}",
                f"choose one of {list(getattr(known, name))}, or leave out the compile option tuning",
            )
    first = {name: getattr(known, name)[0] for name in KINDS}
    return Tuning(**{**first, **given}, hopper=known.hopper)


def check(given: Any) -> dict[str, Choice]:
    """The choices of a mapping as JSON has it, {"cross_attention": [64, 64, 4], "geglu": null}.

    Raises UsageError for a kernel or a choice that is nowhere in the table.
    """
    known = {name: {c for one in TABLE.values() for c in getattr(one, name)} for name in KINDS}
    example = '{"tuning": {"cross_attention": [64, 64, 4], "geglu": null}}'
    strange = UsageError(f"inductor's option tuning is {given!r}", f"for example {example}")
    if not isinstance(given, Mapping) or not given.keys() <= KINDS.keys():
        raise strange
    found: dict[str, Choice] = {}
    for name, values in given.items():
        whole = isinstance(values, list | tuple) and all(type(value) in (int, bool) for value in values)
        if values is not None and not (whole and len(values) == len(KINDS[name]._fields)):
            raise strange
        choice = None if values is None else KINDS[name](*values)
        if choice not in known[name]:
            raise strange
        found[name] = choice
    return found
