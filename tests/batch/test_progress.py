"""What a batch says while it runs."""

import pytest

from ipa_cli.batch.journal import Outcome
from ipa_cli.batch.progress import Progress
from ipa_cli.result import NullReporter


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ipa_cli.batch.progress.time.perf_counter", lambda: now[0])
    return now


def test_the_speed_is_left_out_until_it_is_known_and_then_in_the_unit_that_reads_well(clock):
    progress = Progress(20, NullReporter(), lambda doing: None, live=False)

    def end(at):
        clock[0] = at
        progress.count(Outcome(progress.done, f"job-{progress.done}", "done"))
        return progress.text

    assert end(5.0) == "1 of 20" and progress.per_second is None
    assert end(9.0) == "2 of 20, 4.00 s/picture, 72 s left"
    assert [end(9.2), end(9.3), end(9.4)][-1] == "5 of 20, 1.10 s/picture, 16 s left"
    for at in (9.5, 9.6, 9.7):
        text = end(at)
    assert text == "8 of 20, 1.49 pictures/s, 8 s left"
