"""What a batch leaves alone, and how it goes on, without a model: its jobs fail at once."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from ipa_cli.batch import output, pages
from ipa_cli.batch.journal import Outcome
from tests.commands.test_batch import QUICK, jobs, results


@pytest.fixture
def not_drawn(monkeypatch):
    """All jobs fail at once, without a model."""

    def draw(task, every, done, reporter):
        for job in list(every):
            done(Outcome(job.number, job.id, "failed", error="not drawn"))

    monkeypatch.setattr("ipa_cli.batch.run.here", draw)


@pytest.mark.parametrize("name", ["index.html", "page-2.html", "results.jsonl", "contact-sheet.png", "pictures/a.png"])
@pytest.mark.parametrize("place", ["mine", "memory://mine"])
def test_files_that_are_not_of_a_batch_are_not_overwritten(ipa, not_drawn, place, name):
    output.of(place).write(name, b"mine")
    ran = ipa("batch", jobs({"id": "a"}), *QUICK, "-o", place)
    assert ran.exit_code == 1 and f"holds {name} but no batch.json" in ran.stderr
    assert output.of(place).read(name) == b"mine"
    output.of(place).remove("")


def test_references_in_the_output_are_refused(ipa, not_drawn, world):
    """The contact sheet would be one of them when it is resumed."""
    Path("refs").mkdir()
    Image.new("RGB", (48, 48), "orange").save("refs/cat.png")
    Path("link").symlink_to("refs")
    before = world.files()
    for folder, place in (("refs", "refs"), ("link", f"{world.cwd}/refs/")):
        ran = ipa("batch", folder, *QUICK, "-o", place)
        assert ran.exit_code == 2 and f"the reference {folder}/cat.png is in the output" in ran.stderr
    assert world.files() == before
    assert ipa("batch", "refs", *QUICK, "-o", ".").exit_code == 1 and [one["id"] for one in results(".")] == ["cat"]


def test_what_a_killed_run_was_writing_is_removed(ipa, not_drawn):
    file = jobs({"id": "a"})
    ipa("batch", file, *QUICK, "-o", "out")
    left = [Path("out", folder, ".ipa-0123.tmp") for folder in ("", "pictures", "pictures/0001")]
    for path in left:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"half")
    Path("mine").mkdir()
    Path("mine/.ipa-0123.tmp").write_bytes(b"of another process")
    Path("out/pictures/0002").symlink_to("../../mine")
    ipa("batch", file, *QUICK, "-o", "out", "--resume")
    assert not any(path.exists() for path in left) and Path("mine/.ipa-0123.tmp").exists()


def test_the_last_run_counts_where_the_clock_was_set_back(ipa, not_drawn, monkeypatch):
    def draw(task, every, done, reporter):
        for job in list(every):
            done(Outcome(job.number, job.id, "failed", error="another reason"))

    file = jobs({"id": "a"})
    ipa("batch", file, *QUICK, "-o", "out")
    monkeypatch.setattr("time.time_ns", lambda: 1)
    monkeypatch.setattr("ipa_cli.batch.run.here", draw)
    ipa("batch", file, *QUICK, "-o", "out", "--retry-failed")
    assert [one["error"] for one in results()] == ["another reason"]


def test_a_disk_without_locks_is_an_error_in_a_line(ipa, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    ran = ipa("batch", jobs({"id": "a"}), *QUICK, "-o", "out")
    assert ran.exit_code == 1 and "out/.lock cannot be locked: No locks available" in ran.stderr


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: Image.new("L", (9000, 9000)).save(path),  # more pixels than are read
        lambda path: Image.new("1", (16000, 12000)).save(path),  # more than Pillow opens
        lambda path: path.write_bytes(b"no picture"),
        lambda path: path.write_bytes(path.read_bytes()[:60]),
    ],
)
def test_a_picture_that_was_replaced_since_is_left_out_of_the_sheet(ipa, spoil):
    place = output.of("out")
    picture = Path("out/pictures/a.png")
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (48, 48), "orange").save(picture)
    spoil(picture)
    assert pages.write(place, [Outcome(1, "a", "done", "pictures/a.png", "0", 1)], "title") == 1
    assert Image.open("out/contact-sheet.png").width == 480


@pytest.mark.parametrize("name", ["journal", "batch.json", "results.jsonl", "pictures"])
def test_something_else_in_the_place_of_what_a_batch_writes_is_an_error_in_a_line(ipa, not_drawn, name):
    Path("out").mkdir()
    Path("out", name).mkdir() if "." in name else Path("out", name).write_text("mine")
    ran = ipa("batch", jobs({"id": "a"}), *QUICK, "-o", "out")
    assert ran.exit_code == 1 and "Traceback" not in ran.stderr and name in ran.stderr


@pytest.mark.parametrize("name", ["results.jsonl", "index.html", "contact-sheet.png"])
def test_what_cannot_be_written_in_the_end_is_found_before_anything_is_drawn(ipa, not_drawn, monkeypatch, name):
    file = jobs({"id": "a"})
    ipa("batch", file, *QUICK, "-o", "out")
    Path("out", name).unlink(missing_ok=True)
    Path("out", name).symlink_to("elsewhere")
    monkeypatch.setattr("ipa_cli.batch.run.here", lambda *_: pytest.fail("it was drawn"))
    ran = ipa("batch", file, *QUICK, "-o", "out", "--retry-failed")
    assert ran.exit_code == 1 and f"{name} is a link" in ran.stderr


@pytest.mark.parametrize("change", [{"sha256": 1}, {"bytes": "1"}, {"sha256": None}])
def test_a_description_that_no_batch_wrote_is_an_error_in_a_line(ipa, not_drawn, change):
    file = jobs({"id": "a"})
    ipa("batch", file, *QUICK, "-o", "out")
    said = json.loads(Path("out/batch.json").read_text())
    Path("out/batch.json").write_text(json.dumps({**said, "jobs": {**said["jobs"], **change}}))
    ran = ipa("batch", file, *QUICK, "-o", "out", "--resume")
    assert ran.exit_code == 1 and "batch.json describes no batch" in ran.stderr


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3:/bucket/drawn", "the address lacks a slash"),
        ("memory:/drawn", "the address lacks a slash"),
        ("file:/tmp/drawn", "the address lacks a slash"),
        ("file://drawn", "is not the whole path of a folder"),
        ("file://", "is not the whole path of a folder"),
        ("local://drawn", "is not the whole path of a folder"),
        ("s3://", "names no bucket or folder"),
        ("memory:///", "names no bucket or folder"),
    ],
)
def test_an_address_that_would_be_a_folder_here_is_wrong_usage(ipa, world, not_drawn, place, said):
    ran = ipa("batch", jobs({"id": "a"}), *QUICK, "-o", place)
    assert ran.exit_code == 2 and said in ran.stderr and world.files() == ["jobs.jsonl"]


@pytest.mark.parametrize("place", ["ftp://127.0.0.1:9/drawn", "dir://drawn", "zip://drawn"])
def test_an_address_that_no_library_can_open_is_an_error_in_a_line(ipa, world, not_drawn, place):
    ran = ipa("batch", jobs({"id": "a"}), *QUICK, "-o", place)
    assert ran.exit_code == 1 and f"error: {place} cannot be " in ran.stderr and "Traceback" not in ran.stderr
    assert world.files() == ["jobs.jsonl"]


def test_the_address_of_a_folder_is_printed_as_that_folder(ipa, world, monkeypatch):
    def draw(task, every, done, reporter):
        for job in list(every):
            done(Outcome(job.number, job.id, "done", job.file(".png"), "0", 1))

    monkeypatch.setattr("ipa_cli.batch.run.here", draw)
    place = f"file://{world.cwd}/out"
    assert ipa("batch", jobs({"id": "a"}), *QUICK, "-o", place, "-q").stdout == f"{world.cwd}/out\n"


def test_a_batch_that_another_version_goes_on_with_is_noted(ipa, not_drawn, monkeypatch):
    file = jobs({"id": "a"})
    ipa("batch", file, *QUICK, "-o", "out")
    monkeypatch.setattr("ipa_cli.batch.description.__version__", "99.0")
    assert "begun with ipa 0." in ipa("batch", file, *QUICK, "-o", "out", "--resume").stderr
