"""Where the parts of a model lie: folders and repositories, looked at without walking through them."""

import errno
import os
from pathlib import Path

import pytest

from ipa_cli.models import location as locations
from ipa_cli.models.location import Location, ModelError, folder_location
from tests.models.test_download import write


def test_a_folder_is_not_walked_through(tmp_path, monkeypatch):
    location = write(tmp_path, "unet/config.json", "other/x")
    (tmp_path / "link").symlink_to(tmp_path / "unet", target_is_directory=True)
    walked: list[object] = []
    monkeypatch.setattr(os, "scandir", lambda *_: walked.append(_) or iter(()))
    monkeypatch.setattr(os, "listdir", lambda *_: walked.append(_) or [])
    assert location.has("link/config.json") and not location.has("link")
    assert not location.has("x" * 5000) and not walked


def test_hidden_files_are_not_weights(tmp_path):
    location = write(tmp_path, "._ip-adapter.bin", ".DS_Store", "ip-adapter.bin", "below/other.bin")
    assert location.files() == ["ip-adapter.bin"]
    assert Location(None, "some/one", None, frozenset(["._a.bin", "a.bin", "b/c.bin"])).files() == ["a.bin"]


def test_a_folder_that_may_not_be_entered_is_reported(tmp_path, monkeypatch):
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)  # root may enter every folder
    with pytest.raises(ModelError, match="cannot be read: Permission denied"):
        folder_location(tmp_path).has("unet/config.json")


def test_the_home_of_an_unknown_user_is_reported():
    with pytest.raises(ModelError, match="nobody-of-this-name"):
        locations.expanded("~nobody-of-this-name/model")
