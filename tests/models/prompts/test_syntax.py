"""What prompts mean in each syntax: weights, chunks, brackets as text, and what is refused."""

import math
import re
import time
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipa_cli.errors import IpaError, UsageError
from ipa_cli.models.prompts.syntax import (
    A1111,
    COMFYUI,
    LITERAL,
    SYNTAXES,
    Fragment,
    as_a1111,
    is_marked,
    parse,
)

UP, DOWN = 1.1, 1 / 1.1


def read(text: str, syntax: str) -> list[list[tuple[str, float]]]:
    return [[(piece, round(weight, 6)) for piece, weight in section] for section in parse(text, syntax).sections]


def fragments(*pairs: tuple[str, float]) -> list[tuple[str, float]]:
    return [(text, round(weight, 6)) for text, weight in pairs]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red fox", [("a red fox", 1)]),
        ("a (red:1.3) fox", [("a ", 1), ("red", 1.3), (" fox", 1)]),
        ("a (red) fox", [("a ", 1), ("red", UP), (" fox", 1)]),
        ("((red))", [("red", UP**2)]),
        ("[red]", [("red", DOWN)]),
        ("[[red]]", [("red", DOWN**2)]),
        ("(a (red:1.5) fox:1.2)", [("a ", 1.2), ("red", 1.8), (" fox", 1.2)]),
        ("(a [b) c]", [("a ", UP), ("b", 1), (" c", DOWN)]),
        ("(red: -.5 )", [("red", -0.5)]),
        (r"a \(red\) fox \[x\] \\", [(r"a (red) fox [x] " + "\\", 1)]),
        (r"(a\):1.2)", [("a)", 1.2)]),
        ("a :) b, 16:9", [("a :) b, 16:9", 1)]),
        ("(at 10:30 pm)", [("at 10:30 pm", UP)]),
        ("[a:b]", [("a:b", DOWN)]),
        ("x | y", [("x | y", 1)]),
        ("(x | y)", [("x | y", UP)]),
        ("(red", [("red", UP)]),
        ("BREAKFAST", [("BREAKFAST", 1)]),
        ("", [("", 1)]),
    ],
)
def test_the_syntax_of_a1111(text, expected):
    assert read(text, A1111) == [fragments(*expected)]


def test_break_begins_a_section_inside_brackets_too():
    assert read("a fox BREAK\n(in BREAK snow:1.2)", A1111) == [
        [("a fox", 1)],
        [("in", 1.2)],
        [("snow", 1.2)],
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a (red:1.3) fox", [("a ", 1), ("red", 1.3), (" fox", 1)]),
        ("((red))", [("red", UP**2)]),
        ("(a (red:1.5) fox:1.2)", [("a ", 1.2), ("red", 1.5), (" fox", 1.2)]),  # not 1.8
        ("((red) fox:2)", [("red", 2.2), (" fox", 2)]),
        (r"\(red\) [x] a\b", [(r"(red) [x] a\b", 1)]),
        ("(:1.2)", [(":1.2", UP)]),
        ("(a:b)", [("a:b", UP)]),
        ("(a:1e1)", [("a", 10)]),
        ("a BREAK b AND c", [("a BREAK b AND c", 1)]),
        ("a :) b (red", [("a :) b (red", 1)]),
        ("()", [("", 1)]),
    ],
)
def test_the_syntax_of_comfyui(text, expected):
    assert read(text, COMFYUI) == [fragments(*expected)]


@pytest.mark.parametrize("text", ["a (red:1.3) fox", "[a|b] BREAK \\(", ""])
def test_literal_text_is_as_it_is(text):
    assert parse(text, LITERAL).sections == ((Fragment(text),),)


@pytest.mark.parametrize(
    ("text", "syntax", "message"),
    [
        ("a [red:blue:0.5] fox", A1111, "scheduled words"),
        ("[red:0.5]", A1111, "scheduled words"),
        ("[(red:1.2)::10 ]", A1111, "scheduled words"),
        ("a [red|blue] fox", A1111, "alternating words"),
        ("(red:1.2.3)", A1111, "no number: 1.2.3"),
        ("(red:500)", A1111, "the weight 500 of 'red' is beyond 100"),
        ("(red:-500)", COMFYUI, "the weight -500 of 'red' is beyond 100"),
        ("(" * 5000 + "red", A1111, "is beyond 100"),
        ("(" * 10_000 + "red" + ")" * 10_000, COMFYUI, "is beyond 100"),
    ],
)
def test_what_would_be_misread_is_refused(text, syntax, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        parse(text, syntax)
    assert caught.value.hint and len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("text", "syntax", "remark"),
    [
        ("a (red fox", A1111, "a ( is not closed"),
        ("a [red fox", A1111, "a [ is not closed"),
        ("a cat AND a dog", A1111, "AND is read as a word"),
        ("a (red fox", COMFYUI, "a ( has no other half"),
        ("a fox :)", COMFYUI, "a ) has no other half"),
    ],
)
def test_what_may_surprise_is_remarked(text, syntax, remark):
    assert [said[: len(remark)] for said in parse(text, syntax).remarks] == [remark]
    assert parse("a fox, (red), \\(x\\)", syntax).remarks == ()


@pytest.mark.parametrize("syntax", [COMFYUI, LITERAL])
@pytest.mark.parametrize(
    "text",
    [
        *("a (red:1.3) fox", "((red:1.5) fox)", "[a|b] BREAK x AND y", r"\(red\) a\b", "(a:\\(:1.2)"),
        *("x:1.2 (y) :) ", "((a) b:2)", "(ratio 16:9)"),
    ],
)
def test_other_syntaxes_are_written_in_a1111s(text, syntax):
    written = as_a1111(text, syntax)
    (section,) = read(written, A1111)
    assert [section] == read(text, syntax) and not parse(written, A1111).remarks


def test_a_prompt_of_a1111_is_written_as_it_is():
    assert as_a1111("a (red:1.30) [fox", A1111) == "a (red:1.30) [fox"
    assert is_marked("(a)") and is_marked("a BREAK b") and not is_marked("a red fox: 16 | 9")


def plain_a1111(text: str) -> list[tuple[str, float]]:
    """A1111's rule, as slow as it is simple: every bracket that closes multiplies all since the one that opens."""
    pattern = r"\\[()\[\]\\]|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()\[\]:]+|:"
    found: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(begin: int, factor: float) -> None:
        for one in found[begin:]:
            one[1] *= factor

    for token in re.finditer(pattern, text):
        piece, weight = token[0], token[1]
        if piece.startswith("\\"):
            found.append([piece[1:], 1.0])
        elif piece in "([":
            opened[piece].append(len(found))
        elif weight is not None and opened["("]:
            multiply(opened["("].pop(), float(weight))
        elif piece == ")" and opened["("]:
            multiply(opened["("].pop(), UP)
        elif piece == "]" and opened["["]:
            multiply(opened["["].pop(), DOWN)
        else:
            found.append([piece, 1.0])
    for mark, factor in (("(", UP), ("[", DOWN)):
        for begin in opened[mark]:
            multiply(begin, factor)
    merged: list[tuple[str, float]] = []
    for piece, weight in found:
        if merged and math.isclose(merged[-1][1], weight):
            merged[-1] = (merged[-1][0] + piece, weight)
        elif piece:
            merged.append((piece, weight))
    return merged or [("", 1.0)]


PIECES = st.sampled_from([*"()[]:\\, .1", "red", " fox", ":1.2", ":0.5)", "1.5", "BREAK"])


@given(st.lists(PIECES, max_size=30).map("".join))
@example("[ (a:0.5] )")
def test_weights_are_those_of_the_simple_rule(text):
    try:
        prompt = parse(text, A1111)
    except UsageError:
        return
    if len(prompt.sections) > 1 or "BREAK" in text:
        return
    expected = plain_a1111(text)
    found = prompt.sections[0]
    assert [one.text for one in found] == [text for text, _ in expected] or math.prod(w for _, w in expected) == 0
    assert all(math.isclose(one.weight, weight) for one, (_, weight) in zip(found, expected, strict=False))


@given(st.text(st.one_of(st.sampled_from("()[]:\\|<>.1 aBREAK\n"), st.characters())), st.sampled_from(SYNTAXES))
def test_any_text_is_read_or_refused_in_words(text, syntax):
    try:
        prompt = parse(text, syntax)
    except IpaError as error:
        assert error.hint
        return
    assert all(section for section in prompt.sections)
    assert all(math.isfinite(weight) for _, weight in prompt.fragments)
    if syntax != A1111:
        (written,) = read(as_a1111(text, syntax), A1111)
        assert [written] == read(text, syntax)


@pytest.mark.parametrize("syntax", [A1111, COMFYUI])
@pytest.mark.parametrize(
    "text", ["(a:1.0) " * 12_000, "(" * 50_000, "([" * 30_000 + "a", ")]" * 50_000, "\\" * 100_000, " " * 100_000]
)
def test_long_prompts_take_no_longer_than_their_length_needs(text, syntax):
    began = time.perf_counter()
    with suppress(UsageError):
        parse(text, syntax)
    assert time.perf_counter() - began < 10
