"""Prompts as people write them: text to weighted fragments, by A1111's syntax, by ComfyUI's, or literally.

`(word)` weighs 1.1, `(word:1.3)` weighs 1.3.

A1111: nested weights are multiplied. `[word]` weighs 1 / 1.1. The text after `BREAK` begins a new chunk. Backslashes
make brackets text: `\\(`, `\\)`, `\\[`, `\\]`, `\\\\`. `[a:b:0.5]` and `[a|b]`, which change from step to step, are
refused.

ComfyUI: an inner `(word:1.3)` weighs 1.3 whatever is around it. Of the rest only `\\(` and `\\)` are more than text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ipa_cli.config.checks import short
from ipa_cli.errors import UsageError

A1111, COMFYUI, LITERAL = "a1111", "comfyui", "literal"
SYNTAXES = (A1111, COMFYUI, LITERAL)
UP, DOWN = 1.1, 1 / 1.1  # what a pair of brackets without a number multiplies by
MOST = 100.0  # beyond it a weight leaves the range of half precision
AS_TEXT = "write \\( \\) \\[ \\] for brackets that are text, or use --prompt-syntax literal"

_BREAK = re.compile(r"\bBREAK\b")
_AND = re.compile(r"\bAND\b")
_A1111 = re.compile(
    r"""\\(?P<text>[()\[\]\\]?)
    | :\s*(?P<weight>[+-]?[.\d]+)\s*\)
    | (?P<schedule>:(?=\s*[+-]?[.\d]+\s*\]))
    | (?P<mark>[()\[\]|])
    | [^\\()\[\]:|]+
    | :
    """,
    re.VERBOSE,
)
_COMFYUI = re.compile(r"\\(?P<text>[()])|(?P<mark>[()])|[^\\()]+|\\")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE)


class Fragment(NamedTuple):
    """A piece of a prompt and its weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt: fragments in sections, each of which begins a new chunk. `remarks` are warnings for people."""

    sections: tuple[tuple[Fragment, ...], ...]
    syntax: str
    remarks: tuple[str, ...] = ()

    @property
    def fragments(self) -> tuple[Fragment, ...]:
        """Those of all sections."""
        return tuple(fragment for section in self.sections for fragment in section)


def parse(text: str, syntax: str) -> Prompt:
    """A prompt in a syntax of `SYNTAXES`. Raises UsageError for what would be misread otherwise."""
    if syntax == LITERAL:
        return Prompt(((Fragment(text),),), syntax)
    return _a1111(text) if syntax == A1111 else _comfyui(text)


def whole_words(names: Sequence[str]) -> re.Pattern[str]:
    """A pattern of whole words in any case, the longest first, as its one group."""

    def whole(name: str) -> str:
        before, after = (r"\b" if re.match(r"\w", name[at]) else "" for at in (0, -1))
        return f"{before}{re.escape(name)}{after}"

    return re.compile(f"({'|'.join(map(whole, sorted(names, key=len, reverse=True)))})", re.IGNORECASE)


def has_word(words: Sequence[str], texts: Iterable[str], syntax: str) -> bool:
    """Whether one of these words is in one of these prompts, as a syntax of `SYNTAXES` reads them."""
    pattern = whole_words(words)
    return any(pattern.search(fragment.text) for text in texts for fragment in parse(text, syntax).fragments)


def is_marked(text: str) -> bool:
    """Whether A1111's syntax reads a text as anything but plain words."""
    return re.search(r"[()\[\]\\]|\b(BREAK|AND)\b", text) is not None


def as_a1111(text: str, syntax: str) -> str:
    """A prompt in A1111's syntax, which `parse` reads as the same fragments, weights to six decimals."""
    if syntax == A1111:
        return text
    return "".join(
        _escaped(piece) if weight == 1 else f"({_escaped(piece)}:{f'{weight:.6f}'.rstrip('0').rstrip('.')})"
        for piece, weight in parse(text, syntax).fragments
    )


def _escaped(text: str) -> str:
    text = re.sub(r"([()\[\]\\])", r"\\\1", text)
    return _AND.sub(r"A\\ND", _BREAK.sub(r"B\\REAK", text))


def _merged(fragments: Iterable[Fragment]) -> tuple[Fragment, ...]:
    """Neighbours of the same weight as one, so that no word is cut where nothing changes."""
    return tuple(
        Fragment("".join(fragment.text for fragment in run), weight)
        for weight, run in itertools.groupby(fragments, lambda fragment: fragment.weight)
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"a weight in the prompt is no number: {short(text)}", "write it as in (fox:1.3)") from None


def _bounded(weight: float, text: str) -> float:
    if not abs(weight) <= MOST:
        raise UsageError(f"the weight {weight:g} of '{short(text)}' is beyond {MOST:g}", "write one from 0 to 2")
    return weight


# --- A1111 --------------------------------------------------------------------------------------------------------


def _a1111(text: str) -> Prompt:
    """As A1111's `parse_prompt_attention`: round and square brackets may cross, an open one reaches to the end."""
    tokens = list(_A1111.finditer(text))
    factors, closing, remarks = _brackets(tokens)
    products = {"(": [1.0], "[": [1.0]}
    sections: list[list[Fragment]] = [[]]
    for at, token in enumerate(tokens):
        if at in factors:
            own = products[token["mark"]]
            own.append(own[-1] * factors[at])
        elif at in closing:
            products[closing[at]].pop()
        else:
            escaped = token["text"]
            piece = token[0] if escaped is None else escaped
            weight = products["("][-1] * products["["][-1]
            first, *others = [piece] if escaped is not None else _split(piece)
            sections[-1].append(Fragment(first, weight))
            sections += [[Fragment(other, weight)] for other in others]
    fragments = [_merged(fragment for fragment in section if fragment.text) for section in sections]
    for fragment in itertools.chain.from_iterable(fragments):
        _bounded(fragment.weight, fragment.text)
    if _AND.search(text):
        remarks = (*remarks, "AND is read as a word: prompts are not joined")
    return Prompt(tuple(one or (Fragment(""),) for one in fragments), A1111, remarks)


def _split(text: str) -> list[str]:
    """What is around each `BREAK`, without the blanks beside it."""
    first, *others = _BREAK.split(text)
    if not others:
        return [first]
    *inner, last = others
    return [first.rstrip(), *(one.strip() for one in inner), last.lstrip()]


def _brackets(tokens: Sequence[re.Match[str]]) -> tuple[dict[int, float], dict[int, str], tuple[str, ...]]:
    """The factors of the tokens that open a bracket, the bracket that others close, and remarks.

    Raises UsageError for words that would change from step to step.
    """
    factors: dict[int, float] = {}
    closing: dict[int, str] = {}
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for at, token in enumerate(tokens):
        mark, weight = token["mark"], token["weight"]
        in_square = opened["["][-1:] > opened["("][-1:]
        if mark in ("(", "["):
            opened[mark].append(at)
            factors[at] = UP if mark == "(" else DOWN
        elif in_square and (mark == "|" or token["schedule"]):
            what = "alternating words, as in [a|b]," if mark else "scheduled words, as in [a:b:0.5],"
            raise UsageError(f"{what} cannot be drawn: the prompt is the same in every step", AS_TEXT)
        elif weight is not None and opened["("]:
            factors[opened["("].pop()] = _number(weight)
            closing[at] = "("
        elif mark in (")", "]") and opened[begin := "(" if mark == ")" else "["]:
            opened[begin].pop()
            closing[at] = begin
    remarks = tuple(f"a {mark} is not closed: its weight reaches to the end" for mark in opened if opened[mark])
    return factors, closing, remarks


# --- ComfyUI ------------------------------------------------------------------------------------------------------


def _comfyui(text: str) -> Prompt:
    """As ComfyUI's `token_weights`, but that brackets without their other half are text."""
    tokens = list(_COMFYUI.finditer(text))
    pieces = [token["text"] or token[0] for token in tokens]
    partner, alone = _pairs(tokens)
    stated: dict[int, float] = {}  # by the bracket that opens
    for begin, end in partner.items():
        words, colon, number = pieces[end - 1].rpartition(":")
        plain = end - 1 > begin and tokens[end - 1]["text"] is None and tokens[end - 1]["mark"] is None
        first = end - 2 == begin and not words  # (:1.3) has no words to weigh
        if plain and colon and _NUMBER.fullmatch(number) and not first:
            stated[begin], pieces[end - 1] = _number(number), words
    ends = set(partner.values())
    weights, fragments = [1.0], []
    for at, piece in enumerate(pieces):
        if at in partner:
            weights.append(stated.get(at, weights[-1] * UP))
        elif at in ends:
            weights.pop()
        elif piece:
            fragments.append(Fragment(piece, _bounded(weights[-1], piece)))
    remarks = (f"a {alone[0]} has no other half: it is read as text",) if alone else ()
    return Prompt((_merged(fragments) or (Fragment(""),),), COMFYUI, remarks)


def _pairs(tokens: Sequence[re.Match[str]]) -> tuple[dict[int, int], list[str]]:
    """The tokens that open a bracket and those that close it, and the brackets without their other half."""
    partner: dict[int, int] = {}
    opened: list[int] = []
    alone: list[str] = []
    for at, token in enumerate(tokens):
        if token["mark"] == "(":
            opened.append(at)
        elif token["mark"] == ")":
            if opened:
                partner[opened.pop()] = at
            else:
                alone.append(")")
    return partner, alone + ["("] * len(opened)
