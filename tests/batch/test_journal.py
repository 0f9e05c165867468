"""Lines of a journal, which may come from anybody: what is taken from them."""

import json

import pytest

from ipa_cli.batch import output
from ipa_cli.batch.journal import Outcome, parse
from ipa_cli.batch.output import Folder

DONE = {"job": 2, "id": "a", "status": "done", "file": "pictures/a.png", "seconds": 0.5}
FAILED = {"job": 2, "id": "a", "status": "failed", "error": "no such file", "hint": "check the path"}


@pytest.mark.parametrize("said", [DONE, FAILED, {**DONE, "file": "pictures/0001/a b.png"}])
def test_a_line_is_read_as_it_was_written(said):
    assert parse(Outcome(**said).line(), 2) == Outcome(**said)


@pytest.mark.parametrize(
    "changed",
    [
        {"job": 3},
        {"job": 0},
        {"job": True},
        {"id": 1},
        {"status": "drawn"},
        {"file": None},
        {"file": 5},
        {"file": ["pictures/a.png"]},
        {"file": "/etc/passwd"},
        {"file": "pictures/../../a.png"},
        {"file": "pictures/.."},
        {"file": "javascript:alert(1)"},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"status": "failed"},
        {"more": 1},
    ],
)
def test_a_line_that_no_batch_writes_is_left_out(changed):
    assert parse(json.dumps({**DONE, **changed}).encode(), 2) is None


def test_the_url_of_a_folder_is_that_folder(tmp_path):
    assert output.of(f"file://{tmp_path}/drawn") == Folder(tmp_path / "drawn")
