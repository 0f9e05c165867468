"""Files of a batch that are written through fsspec."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ipa_cli.batch import output
from ipa_cli.errors import IpaError


class Written:
    """A file as fsspec has it, which is complete once it is closed."""

    def __init__(self):
        self.lines, self.closed, self.completed, self.discarded = [], False, False, False

    def write(self, line):
        self.lines.append(line)

    def close(self):
        self.closed = self.completed = True

    def discard(self):
        self.discarded = True


@pytest.fixture
def written(monkeypatch):
    found = Written()
    files = SimpleNamespace(open=lambda path, mode: found)
    monkeypatch.setattr(output.remote, "opened", lambda url: (files, "bucket/to"))
    return found


def test_lines_are_written_to_a_bucket_and_the_file_is_completed(written):
    output.of("s3://bucket/to").write_lines("results.jsonl", [b"1\n", b"2\n"])
    assert written.lines == [b"1\n", b"2\n"] and written.completed and not written.discarded


@pytest.mark.parametrize(
    ("raised", "seen"), [(KeyboardInterrupt, KeyboardInterrupt), (OSError("the line is down"), IpaError)]
)
def test_a_file_of_which_only_some_lines_could_be_written_is_not_completed(written, raised, seen):
    def lines():
        yield b"1\n"
        raise raised

    with pytest.raises(seen):
        output.of("s3://bucket/to").write_lines("results.jsonl", lines())
    assert written.discarded and written.closed and not written.completed


@pytest.mark.parametrize(("trying", "tries"), [(60.0, output.TRIES), (0.0, 1)])
def test_a_request_is_not_made_again_once_it_has_taken_long(monkeypatch, trying, tries):
    made = []

    def silent(path):
        made.append(path)
        raise OSError("the line is down")

    monkeypatch.setattr(output, "TRYING", trying)
    monkeypatch.setattr(output.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(output.remote, "opened", lambda url: (SimpleNamespace(cat_file=silent), "bucket/to"))
    place = output.of("s3://bucket/to")
    for _ in range(2):  # and once it is given up, others need not wait as long
        with pytest.raises(IpaError, match="cannot be read: the line is down"):
            place.read("batch.json")
        assert len(made) == tries
    monkeypatch.setattr(output, "REST", 0.0)
    with pytest.raises(IpaError):
        place.read("batch.json")
    assert len(made) == 2 * tries
