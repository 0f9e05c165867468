import grp
import os
import pwd
from pathlib import Path

import pytest

from ipa_cli.system.ownership import other_writer, writable_by_others


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a" / "b" / "file"
    path.parent.mkdir(parents=True)
    path.touch()
    for place in (path, *path.parents[:2]):
        place.chmod(0o755 if place.is_dir() else 0o644)
    return path


def test_our_file_that_all_may_read_is_ours_alone(file):
    assert other_writer(file) is None


def test_what_others_may_write_is_foreign_and_named(file):
    for place in (file, *file.parents[:2]):
        before = place.stat().st_mode
        place.chmod(before | 0o002)
        assert other_writer(file) == f"everybody may write to {place}"
        place.chmod(before)
    assert other_writer(file) is None


def test_a_sticky_folder_on_the_way_is_fine_but_not_at_the_end(file):
    file.parent.chmod(0o1777)
    assert other_writer(file) is None
    for place in (file.parent, file.parent / "folder" / ".."):
        (file.parent / "folder").mkdir(exist_ok=True)
        assert other_writer(place) == f"everybody may write to {file.parent}"


def test_a_group_may_write_only_where_it_is_the_users_own(file, monkeypatch):
    file.chmod(0o664)
    user = pwd.getpwuid(os.geteuid()).pw_name

    def group(name: str, members: list[str]) -> None:
        monkeypatch.setattr(grp, "getgrgid", lambda number: grp.struct_group((name, "x", number, members)))

    for name, members in ((user, []), (user, [user])):
        group(name, members)
        assert other_writer(file) is None
    for name, members in (("staff", []), (user, [user, "bob"])):
        group(name, members)
        assert other_writer(file) == f"a group may write to {file}"


def test_links_are_followed_as_the_system_does(tmp_path, file):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "inner").symlink_to("../a/b")
    direct, through = tmp_path / "direct", tmp_path / "through"
    direct.symlink_to(file)
    through.symlink_to("open/inner/../b/file")
    assert other_writer(direct) is None
    assert other_writer(through) == f"everybody may write to {tmp_path / 'open'}"
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    for nothing in (loop, tmp_path / "none"):
        with pytest.raises(OSError):
            other_writer(nothing)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_belongs_to_another_user_is_foreign(file):
    for place in (file, file.parent):
        os.chown(place, 4321, 4321)
        assert other_writer(file) == f"{place} belongs to another user (uid 4321)"
        os.chown(place, 0, 0)
    link = file.with_name("link")
    link.symlink_to("file")
    os.lchown(link, 4321, 4321)
    assert other_writer(link) == f"{link} belongs to another user (uid 4321)"


def test_all_places_that_chmod_makes_safe_are_named(file):
    assert writable_by_others(file) == []
    file.chmod(0o666)
    file.parents[1].chmod(0o777)
    assert writable_by_others(file) == [file.parents[1], file]
    for place in writable_by_others(file):
        place.chmod(place.stat().st_mode & ~0o022)
    assert other_writer(file) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_where_a_place_is_another_users_no_chmod_is_named(file):
    file.chmod(0o666)
    os.chown(file.parents[1], 4321, -1)
    assert writable_by_others(file) == []
