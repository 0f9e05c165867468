import grp
import os
import pwd
from pathlib import Path

import pytest

from ipa_cli.system.ownership import foreign


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a" / "b" / "file"
    path.parent.mkdir(parents=True)
    path.touch()
    for place in (path, *path.parents[:2]):
        place.chmod(0o755 if place.is_dir() else 0o644)
    return path


def test_our_file_that_all_may_read_is_ours_alone(file):
    assert foreign(file) is None


def test_what_others_may_write_is_foreign_and_named(file):
    for place in (file, *file.parents[:2]):
        before = place.stat().st_mode
        place.chmod(before | 0o002)
        assert foreign(file) == f"everybody may write to {place}"
        place.chmod(before)
    assert foreign(file) is None


def test_a_sticky_folder_on_the_way_is_fine_but_not_at_the_end(file):
    file.parent.chmod(0o1777)
    assert foreign(file) is None
    for place in (file.parent, file.parent / "folder" / ".."):
        (file.parent / "folder").mkdir(exist_ok=True)
        assert foreign(place) == f"everybody may write to {file.parent}"


def test_a_group_may_write_only_where_it_is_the_users_own(file, monkeypatch):
    file.chmod(0o664)
    user = pwd.getpwuid(os.geteuid()).pw_name

    def group(name: str, members: list[str]) -> None:
        monkeypatch.setattr(grp, "getgrgid", lambda number: grp.struct_group((name, "x", number, members)))

    for name, members in ((user, []), (user, [user])):
        group(name, members)
        assert foreign(file) is None
    for name, members in (("staff", []), (user, [user, "bob"])):
        group(name, members)
        assert foreign(file) == f"a group may write to {file}"


def test_links_are_followed_as_the_system_does(tmp_path, file):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "inner").symlink_to("../a/b")
    direct, through = tmp_path / "direct", tmp_path / "through"
    direct.symlink_to(file)
    through.symlink_to("open/inner/../b/file")
    assert foreign(direct) is None
    assert foreign(through) == f"everybody may write to {tmp_path / 'open'}"
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    for nothing in (loop, tmp_path / "none"):
        with pytest.raises(OSError):
            foreign(nothing)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_belongs_to_another_user_is_foreign(file):
    for place in (file, file.parent):
        os.chown(place, 4321, 4321)
        assert foreign(file) == f"{place} belongs to another user (uid 4321)"
        os.chown(place, 0, 0)
    link = file.with_name("link")
    link.symlink_to("file")
    os.lchown(link, 4321, 4321)
    assert foreign(link) == f"{link} belongs to another user (uid 4321)"
