"""What `ipa bench` takes its flags for, and in which order it measures."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_cli.bench import plan
from ipa_cli.errors import IpaError, UsageError


def specs(*texts):
    return [(spec.text, spec.backend, spec.options) for spec in plan.parse_specs(texts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eager", [("eager", None)]),
        (" eager , inductor ", [("eager", None), ("inductor", None)]),
        ("inductor:max,eager", [("inductor", "max"), ("eager", None)]),
        ("eager:cuda_graph=false,eager", [("eager", '{"cuda_graph": false}'), ("eager", None)]),
        (
            "inductor:preset=max,parts=blocks,eager",
            [("inductor", '{"preset": "max", "parts": "blocks"}'), ("eager", None)],
        ),
        (
            'inductor:{"parts": "blocks", "dynamic": [256, 512]},eager',
            [("inductor", '{"parts": "blocks", "dynamic": [256, 512]}'), ("eager", None)],
        ),
        ("inductor:dynamic=[256,512],eager", [("inductor", '{"dynamic": [256, 512]}'), ("eager", None)]),
    ],
)
def test_backends_with_their_options(text, expected):
    assert [found[1:] for found in specs(text)] == expected
    assert specs(*text.split(",", 0)) == specs(text)


def test_backends_in_several_flags():
    assert [found[1] for found in specs("eager", "inductor:max", "nexfort")] == ["eager", "inductor", "nexfort"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("eagre", "did you mean 'eager'?"),
        ("", "no backend is named"),
        (",", "no backend is named"),
        ("eager,eager", "named twice"),
        ("eager:", "names no options"),
        ("auto", "unknown backend 'auto'"),
        ("cuda_graph=false", "unknown backend"),
    ],
)
def test_what_is_no_backend(text, told):
    with pytest.raises(UsageError) as caught:
        plan.parse_specs([text])
    assert told in f"{caught.value}" and caught.value.hint


@given(st.lists(st.text(st.sampled_from('eagrinduct:=,{}[]"0x '), max_size=40), max_size=3))
def test_any_text_is_backends_or_wrong_usage(texts):
    try:
        found = plan.parse_specs(texts)
    except UsageError:
        return
    assert found and all(spec.backend in spec.text for spec in found)


def test_a_python_for_a_backend(tmp_path):
    (tmp_path / "bin").mkdir()
    Path(tmp_path / "bin" / "python").symlink_to(sys.executable)
    asked = plan.parse_specs(["eager,nexfort,inductor"])
    for text in (f"nexfort={tmp_path}", f"nexfort={tmp_path / 'bin' / 'python'}"):
        assert [spec.python for spec in plan.with_pythons(asked, [text])] == [
            None,
            str(tmp_path / "bin" / "python"),
            None,
        ]


def test_a_python_for_one_of_two_columns_of_a_backend():
    asked = plan.parse_specs(["eager:cuda_graph=false,eager"])
    found = plan.with_pythons(asked, [f"eager:cuda_graph=false={sys.executable}"])
    assert [spec.python for spec in found] == [sys.executable, None]


@pytest.mark.parametrize(
    ("text", "told"),
    [("nexfort=/no/such", "no Python at /no/such"), ("nexfort", "no backend and path"), ("oneflow=/bin/sh", "oneflow")],
)
def test_what_is_no_python(text, told):
    with pytest.raises(IpaError, match=told):
        plan.with_pythons(plan.parse_specs(["eager,nexfort"]), [text])


def test_a_range_of_sizes_reaches_what_compiles():
    found = plan.with_range(plan.parse_specs(["eager,inductor,inductor:max,nexfort:dynamic=null"]), (256, 512))
    assert found[0].options is None
    assert [json.loads(spec.options) for spec in found[1:]] == [
        {"dynamic": [256, 512]},
        {"preset": "max", "dynamic": [256, 512]},
        {"dynamic": [256, 512]},
    ]


def test_runs_are_interleaved_there_and_back_and_references_come_after_the_first():
    asked = plan.parse_specs(["eager,inductor"])
    names = [str(part) for part in plan.parts(asked, 3)]
    assert names == [
        "eager, run 1",
        "inductor, run 1",
        "reference, uncompiled",
        "inductor, run 2",
        "eager, run 2",
        "eager, run 3",
        "inductor, run 3",
    ]


def test_every_python_has_one_reference():
    asked = plan.parse_specs(["eager:cuda_graph=false,inductor,nexfort,nexfort:mode=O2"])
    asked = plan.with_pythons(asked, [f"nexfort={sys.executable}"])
    (elsewhere,) = plan.references(asked)  # here the column of uncompiled drawing is one
    assert (elsewhere.backend, elsewhere.python) == ("eager", sys.executable)
    found = [plan.reference_of(spec, asked) for spec in asked]
    assert found == [asked[0], asked[0], elsewhere, elsewhere]
    assert [str(part) for part in plan.parts(asked, 1)][-1] == f"reference, uncompiled in {sys.executable}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inductor,eager,eager:cuda_graph=false", "eager:cuda_graph=false"),
        ("inductor,eager:channels_last=false,eager", "eager:channels_last=false"),
        ("inductor", None),
    ],
)
def test_what_the_others_are_compared_with(text, expected):
    found = plan.baseline(plan.parse_specs([text]))
    assert (found and found.text) == expected
