"""The campaign's first cases of every kind; `python -m tests.hostile` goes on from there."""

import pytest

from tests.hostile import campaign
from tests.hostile.kinds import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.campaign]

CASES = dict.fromkeys(KINDS, 6) | {"planted modules": 2}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_foreign_runs_hangs_crashes_or_is_lost(world, kind):
    verdicts = [campaign.carry_out(number, 0, [kind]) for number in range(CASES[kind])]
    bad = [verdict for verdict in verdicts if verdict.bad]
    assert not bad, "\n".join(f"{verdict.number}: {verdict.bad}: {verdict.name}\n{verdict.said}" for verdict in bad)


def test_a_case_can_be_repeated():
    for kind in KINDS:
        first, again = (campaign.attack(3, 0, [kind])[1] for _ in range(2))
        assert (first.name, first.arguments, first.environ) == (again.name, again.arguments, again.environ)


def test_bad_cases_are_seen(world, monkeypatch):
    """What the campaign looks for, done by a kind that does it."""
    from tests.hostile.case import CANARY, Attack

    def spoil(folder):
        (folder.parent / "home/notes.txt").write_text("gone")
        (folder.parent / "canary").write_text("ran")

    monkeypatch.setitem(KINDS, "spoilt", lambda random: Attack("spoilt", ("config", "path"), spoil))
    verdict = campaign.carry_out(0, 0, ["spoilt"])
    assert "foreign code ran" in verdict.bad and "changed notes.txt" in verdict.bad and CANARY not in verdict.bad
