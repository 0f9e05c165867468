import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa_cli.sweep import journal
from ipa_cli.system import inputs
from tests.sweep.folders import FAILURE, SETTINGS, contents, draw, draw_point, make


@pytest.fixture
def undisturbed(tmp_path):
    return contents(draw(tmp_path / "undisturbed", make()).folder)


def test_every_point_has_a_line_that_describes_it(tmp_path):
    drawn = draw(tmp_path, make(), failed={2})
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["point"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[0] == {
        "point": 1,
        "row": 1,
        "scale": 0.0,
        "reference": "cat.png",
        "prompt": "a red fox",
        "width": 64,
        "height": 64,
        "seed": 7,
        "status": "ok",
        "file": "pictures/row-1-cat-scale-0.png",
        "sha256": drawn.outcomes[1].sha256,
        "error": None,
    }
    assert (lines[1]["status"], lines[1]["file"], lines[1]["error"]) == ("failed", None, FAILURE)


@pytest.mark.parametrize("whole", range(6))
def test_a_sweep_resumed_from_any_point_ends_with_the_same_bytes(tmp_path, undisturbed, whole):
    folder, sweep = tmp_path / "stopped", make()
    with journal.locked(folder):
        journal.begin(folder, journal.describe(sweep, SETTINGS), sweep, {}, force=False)
        for point in sweep.points[:whole]:
            draw_point(folder, sweep, point)
    # The next picture was being written, then its line, then the journal as a whole.
    with (folder / "results.jsonl").open("ab") as file:
        file.write(b'{"point": %d, "row": 1, "sc' % (whole + 1))
    (folder / "pictures" / ".ipa-0123456789abcdef.tmp").write_bytes(b"half a picture")
    (folder / ".ipa-fedcba9876543210.tmp").write_bytes(b"half a journal")
    assert len(journal.read_results(folder, sweep)) == whole

    draw(folder, sweep)
    assert contents(folder) == undisturbed


def test_a_picture_without_its_line_is_drawn_again(tmp_path, undisturbed):
    folder = draw(tmp_path / "stopped", make()).folder
    lines = (folder / "results.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "results.jsonl").write_bytes(b"".join(lines[:2]))
    draw(folder, make())
    assert contents(folder) == undisturbed


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_missing_or_damaged_picture_is_drawn_again(tmp_path, undisturbed, damage):
    folder, sweep = draw(tmp_path / "damaged", make()).folder, make()
    damage(folder / sweep.points[2].file)
    assert sorted(journal.completed(folder, sweep)) == [1, 2, 4, 5, 6]
    draw(folder, sweep)
    assert contents(folder) == undisturbed


def test_failed_points_are_tried_again(tmp_path, undisturbed):
    folder = draw(tmp_path / "failed", make(), failed={1, 5}).folder
    draw(folder, make())
    assert contents(folder) == undisturbed


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_as_a_journal_without_an_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("journal")
    (folder / "results.jsonl").write_bytes(data + b"\n")
    assert journal.read_results(folder, make()) == {}


@pytest.mark.parametrize("line", ["0", "[]", "{}", '{"point": 0}', '{"point": 99}', '{"point": "1"}', "[" * 5000])
def test_lines_that_describe_no_point_are_ignored(tmp_path, line):
    (tmp_path / "results.jsonl").write_text(line + "\n")
    assert journal.read_results(tmp_path, make()) == {}


def test_a_journal_that_cannot_be_read_is_a_folder_error(tmp_path):
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(journal.FolderError, match="is a folder, not a file of a sweep"):
        journal.read_results(tmp_path, make())


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_devices_and_pipes_are_refused(tmp_path, monkeypatch, target):
    monkeypatch.setattr(inputs, "FIFO_SECONDS", 0.2)
    os.mkfifo(tmp_path / "pipe")
    for name in ("sweep.json", "results.jsonl"):
        (tmp_path / name).symlink_to(target)
    with pytest.raises(journal.FolderError, match=r"sweep.json (is a device|was not closed)"):
        journal.read_description(tmp_path)
    with pytest.raises(journal.FolderError, match=r"results.jsonl (is a device|was not closed)"):
        journal.read_results(tmp_path, make())


def test_lines_of_another_sweep_are_ignored(tmp_path):
    draw(tmp_path, make())
    assert journal.read_results(tmp_path, make(prompts=("a blue fox",))) == {}


# --- one folder, one sweep ------------------------------------------------------------------------------------


def check(folder, sweep, resume=False, force=False, **more):
    journal.check_folder(folder, journal.describe(sweep, {**SETTINGS, **more}), resume, force)


def test_a_new_or_empty_folder_is_accepted_with_and_without_resume(tmp_path):
    check(tmp_path, make())
    check(tmp_path / "new" / "deeper", make(), resume=True)
    assert not (tmp_path / "new").exists()


def test_the_same_sweep_is_resumed_only_on_request(tmp_path):
    draw(tmp_path, make())
    check(tmp_path, make(), resume=True)
    check(tmp_path, make(), force=True)
    with pytest.raises(journal.FolderError) as caught:
        check(tmp_path, make())
    assert "--resume" in caught.value.hint


@pytest.mark.parametrize("resume", [False, True])
def test_another_sweep_is_refused_with_its_differences(tmp_path, resume):
    draw(tmp_path, make())
    with pytest.raises(journal.FolderError) as caught:
        check(tmp_path, make((0.0, 1.0)), resume=resume, steps=9)
    assert "scales 0, 0.5, 1 → 0, 1" in caught.value.message
    assert "steps 4 → 9" in caught.value.message


@pytest.mark.parametrize("name", ["index.html", "sweep.json", "contact-sheet.png", ".lock", "pictures", "animations"])
@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"force": True}])
def test_a_folder_with_links_is_refused_before_anything_is_drawn(tmp_path, name, flags):
    folder = tmp_path / "cloned"
    folder.mkdir()
    (tmp_path / "mine").write_text("mine")
    (folder / name).symlink_to("../mine")
    with pytest.raises(journal.FolderError, match=f"{name} is a link"):
        check(folder, make(), **flags)


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"force": True}])
def test_a_name_that_is_too_long_is_refused(tmp_path, flags):
    with pytest.raises(journal.FolderError, match="too long"):
        check(tmp_path / ("x" * 300), make(), **flags)


def test_temporary_files_of_a_killed_sweep_are_removed(tmp_path):
    for name in (".ipa-0.tmp", "pictures/.ipa-0.tmp", "animations/.ipa-0.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    with journal.locked(tmp_path):
        assert not list(tmp_path.rglob(".ipa-*"))


def test_links_under_predictable_temporary_names_are_not_followed(tmp_path):
    mine, folder = tmp_path / "mine", tmp_path / "cloned"
    mine.write_text("mine")
    folder.mkdir()
    for name in ("index.html", "sweep.json", "results.jsonl", "contact-sheet.png"):
        (folder / f".{name}.tmp").symlink_to(mine)
    draw(folder, make())
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["index.html", "results.jsonl", "contact-sheet.png", "pictures/row-1-cat-scale-0.png"])
def test_files_without_a_sweep_are_not_overwritten(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(journal.FolderError):
        check(tmp_path, make(), resume=True)


def test_other_files_stay_even_with_force(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("notes.txt", "pictures/cat.png"):
        (tmp_path / name).write_text("mine")
    draw(tmp_path, make())
    other = make((0.25, 0.75))
    journal.begin(tmp_path, journal.describe(other, SETTINGS), other, {}, force=True)
    left = contents(tmp_path)
    left.pop(".lock", None)
    assert sorted(left) == ["notes.txt", "pictures/cat.png", "results.jsonl", "sweep.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"plan": []}',
        '{"plan": {"seeds": [1]}, "schema_version": 99}',
        '{"plan": {"seeds": ["1"]}, "schema_version": 1}',
        "[" * 100_000,
    ],
)
def test_a_damaged_description_is_a_folder_error(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(journal.FolderError):
        check(tmp_path, make(), resume=True)
    check(tmp_path, make(), force=True)


def test_a_file_is_not_accepted_as_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(journal.FolderError, match="not a folder"):
        check(tmp_path / "file", make(), force=True)


def test_a_folder_that_cannot_be_made_is_a_folder_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(journal.FolderError, match="cannot be written"), journal.locked(tmp_path / "file" / "below"):
        pass


def test_two_processes_do_not_share_a_folder(tmp_path):
    code = """if True:
        import sys
        from pathlib import Path
        from ipa_cli.sweep import journal
        with journal.locked(Path(sys.argv[1])):
            pass
    """
    with journal.locked(tmp_path):
        second = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert "another sweep is running" in second.stderr
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == 0
