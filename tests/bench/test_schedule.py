"""The order in which `ipa bench` measures, and what is compared with what."""

import sys

import pytest

from ipa_cli.bench import schedule
from ipa_cli.bench.specs import parse_specs, with_pythons


def test_rounds_alternate_their_direction_and_references_follow_the_first():
    asked = parse_specs(["eager,inductor"])
    names = [str(part) for part in schedule.jobs(asked, 3)]
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
    asked = parse_specs(["eager:cuda_graph=false,inductor,nexfort,nexfort:mode=O2"])
    asked = with_pythons(asked, [f"nexfort={sys.executable}"])
    (elsewhere,) = schedule.references(asked)  # in this Python an uncompiled backend is measured anyway
    assert (elsewhere.backend, elsewhere.python) == ("eager", sys.executable)
    found = [schedule.reference_of(spec, asked) for spec in asked]
    assert found == [asked[0], asked[0], elsewhere, elsewhere]
    assert [str(part) for part in schedule.jobs(asked, 1)][-1] == f"reference, uncompiled in {sys.executable}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inductor,eager,eager:cuda_graph=false", "eager:cuda_graph=false"),
        ("inductor,eager:channels_last=false,eager", "eager:channels_last=false"),
        ("inductor", None),
    ],
)
def test_the_baseline_is_uncompiled_where_that_is_measured(text, expected):
    found = schedule.baseline(parse_specs([text]))
    assert (found and found.text) == expected
