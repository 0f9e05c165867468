"""The folders of caches: read-only, full, other people's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipa_cli import config
from ipa_cli.doctor import hub, places, setup
from ipa_cli.doctor.check import Check
from ipa_cli.doctor.report import text


def test_a_good_cache_is_left_unchanged(tmp_path):
    tmp_path.chmod(0o700)
    check = places.graphs(config.Settings(cache_dir=tmp_path), False)
    assert check.status == "ok" and str(tmp_path) in check.found and not list(tmp_path.iterdir())
    later = places.graphs(config.Settings(cache_dir=tmp_path / "not" / "yet"), False)
    assert later.status == "ok" and "not there yet" in later.found and not list(tmp_path.iterdir())


def test_a_read_only_cache_is_a_failure(mount):
    folder = mount("size=4m")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    check = places.graphs(config.Settings(cache_dir=folder), True)
    assert check.status == "failure" and "Read-only" in check.found and "--cache-dir" in check.advice and check.asked
    assert places.graphs(config.Settings(cache_dir=folder / "below"), True).status == "failure"
    reading = places.models({"HF_HUB_CACHE": str(folder)})
    assert reading.status == "warning" and "Read-only" in reading.found


@pytest.mark.skipif(os.geteuid() == 0, reason="modes do not bind root; the read-only disk above does")
def test_a_cache_without_write_permission(tmp_path):
    tmp_path.chmod(0o500)
    assert places.graphs(config.Settings(cache_dir=tmp_path), False).status == "failure"


def test_a_full_disk_is_a_failure(mount):
    folder = mount("size=64k")
    with pytest.raises(OSError, match="No space"), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    check = places.graphs(config.Settings(cache_dir=folder), False)
    assert check.status == "failure" and "No space left" in check.found


def test_a_nearly_full_disk_is_a_warning(mount):
    check = places.graphs(config.Settings(cache_dir=mount("size=8m")), False)
    assert check.status == "warning" and "0.0 GiB free" in check.found


def test_a_cache_that_everybody_can_write_to_is_a_failure(tmp_path):
    tmp_path.chmod(0o777)
    check = places.graphs(config.Settings(cache_dir=tmp_path), False)
    assert check.status == "failure" and "everybody may write" in check.found and "chmod go-w" in check.advice
    assert places.models({"HF_HUB_CACHE": str(tmp_path)}).status == "warning"


def test_a_key_that_others_can_read_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "ipa").mkdir()
    (tmp_path / "ipa" / "graph-key").write_bytes(bytes(32))
    (tmp_path / "ipa" / "graph-key").chmod(0o644)
    check = places.graphs(config.Settings(cache_dir=tmp_path / "cache"), False)
    assert check.status == "failure" and "is not private" in check.found and "ipa cache trust" in check.advice


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_cache_of_another_user_is_a_failure(tmp_path):
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 12345, -1)
    check = places.graphs(config.Settings(cache_dir=tmp_path), False)
    assert check.status == "failure" and "another user" in check.found


def test_a_file_in_place_of_the_cache_is_a_failure(tmp_path):
    (tmp_path / "cache").write_text("")
    for path in (tmp_path / "cache", tmp_path / "cache" / "below"):
        assert places.graphs(config.Settings(cache_dir=path), False).status == "failure"
        assert places.models({"HF_HUB_CACHE": str(path)}).status == "warning"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert places.graphs(config.Settings(cache_dir=tmp_path / "link"), False).status == "failure"


def test_a_user_without_home_and_name_gets_all_checks(monkeypatch):
    import pwd

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    nobody: dict[str, str] = {}
    assert places.models(nobody).name and hub.token(nobody).status == "ok"
    assert setup.check_completion({"SHELL": "/bin/bash"}).status == "skipped"
    assert "fine" in text([Check("a", "ok", "fine")], nobody)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "~/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "/h"}, "/h/hub"),
        ({"HF_HOME": "/h", "HF_HUB_CACHE": "/c"}, "/c"),
    ],
)
def test_the_model_cache_is_where_huggingface_hub_has_it(tmp_path, environ, expected):
    here = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "XDG_"))}
    code = "from huggingface_hub import constants; import sys; sys.stdout.write(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", code], env={**here, **environ}, capture_output=True, text=True)
    assert str(places.hub_cache(environ)) == theirs.stdout == str(Path(expected).expanduser())
