"""The backends that `ipa bench` reads from its flags."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_cli.bench import specs
from ipa_cli.errors import IpaError, UsageError


def parsed(*texts):
    return [(spec.text, spec.backend, spec.options) for spec in specs.parse_specs(texts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eager", [("eager", None)]),
        (" eager , inductor ", [("eager", None), ("inductor", None)]),
        ("inductor:fast,eager", [("inductor", "fast"), ("eager", None)]),
        ("eager:cuda_graph=false,eager", [("eager", '{"cuda_graph": false}'), ("eager", None)]),
        (
            "inductor:preset=fast,parts=blocks,eager",
            [("inductor", '{"preset": "fast", "parts": "blocks"}'), ("eager", None)],
        ),
        (
            'inductor:{"parts": "blocks", "dynamic": [256, 512]},eager',
            [("inductor", '{"parts": "blocks", "dynamic": [256, 512]}'), ("eager", None)],
        ),
        ("inductor:dynamic=[256,512],eager", [("inductor", '{"dynamic": [256, 512]}'), ("eager", None)]),
    ],
)
def test_backends_are_read_with_their_options(text, expected):
    assert [found[1:] for found in parsed(text)] == expected


def test_backends_are_read_from_several_flags():
    assert [found[1] for found in parsed("eager", "inductor:fast", "nexfort")] == ["eager", "inductor", "nexfort"]


@pytest.mark.parametrize(
    ("text", "message"),
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
def test_an_unknown_or_repeated_backend_is_refused_with_a_hint(text, message):
    with pytest.raises(UsageError) as caught:
        specs.parse_specs([text])
    assert message in f"{caught.value}" and caught.value.hint


@given(st.lists(st.text(st.sampled_from('eagrinduct:=,{}[]"0x '), max_size=40), max_size=3))
def test_any_text_is_read_or_refused(texts):
    try:
        found = specs.parse_specs(texts)
    except UsageError:
        return
    assert found and all(spec.backend in spec.text for spec in found)


def test_a_python_is_an_interpreter_or_the_folder_of_an_environment(tmp_path):
    (tmp_path / "bin").mkdir()
    Path(tmp_path / "bin" / "python").symlink_to(sys.executable)
    asked = specs.parse_specs(["eager,nexfort,inductor"])
    for text in (f"nexfort={tmp_path}", f"nexfort={tmp_path / 'bin' / 'python'}"):
        assert [spec.python for spec in specs.with_pythons(asked, [text])] == [
            None,
            str(tmp_path / "bin" / "python"),
            None,
        ]


def test_a_python_may_be_for_one_of_two_specs_of_a_backend():
    asked = specs.parse_specs(["eager:cuda_graph=false,eager"])
    found = specs.with_pythons(asked, [f"eager:cuda_graph=false={sys.executable}"])
    assert [spec.python for spec in found] == [sys.executable, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nexfort=/no/such", "no Python at /no/such"),
        ("nexfort", "expected a backend and a path"),
        ("oneflow=/bin/sh", "oneflow"),
    ],
)
def test_a_python_that_is_missing_or_for_no_backend_is_refused(text, message):
    with pytest.raises(IpaError, match=message):
        specs.with_pythons(specs.parse_specs(["eager,nexfort"]), [text])


def test_a_range_of_sizes_applies_to_what_compiles():
    found = specs.with_range(specs.parse_specs(["eager,inductor,inductor:fast,nexfort:dynamic=null"]), (256, 512))
    assert found[0].options is None
    assert [json.loads(spec.options) for spec in found[1:]] == [
        {"dynamic": [256, 512]},
        {"preset": "fast", "dynamic": [256, 512]},
        {"dynamic": [256, 512]},
    ]
