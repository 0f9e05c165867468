"""Cores, temporary files and search paths."""

import os

import pytest

from ipa_cli.doctor import machine


@pytest.mark.parametrize(
    ("elsewhere", "environ", "status", "told"),
    [
        (0.1, {}, "ok", "4 cores (a quota of 4.5)"),
        (1.5, {}, "warning", "other programs use 1.5"),
        (0, {"OMP_NUM_THREADS": "2"}, "ok", "OMP_NUM_THREADS=2"),
        (0, {"OMP_NUM_THREADS": "16"}, "warning", "threads wait for each other"),
        (0, {"OMP_NUM_THREADS": "4,2"}, "ok", "OMP_NUM_THREADS=4,2"),
    ],
)
def test_busy_cores_and_too_many_threads_are_warnings(monkeypatch, elsewhere, environ, status, told):
    monkeypatch.setattr(machine.cores, "usable", lambda: 4)
    monkeypatch.setattr(machine.cores, "limit", lambda: 4.5)
    check = machine.check_cores(elsewhere, environ)
    assert check.status == status and told in check.found and bool(check.advice) == (status == "warning")


def test_too_little_room_for_temporary_files_is_a_warning(tmp_path, monkeypatch, mount):
    monkeypatch.setattr("tempfile.tempdir", str(mount("size=8m")))
    assert machine.check_temporary().status == "warning" and "TMPDIR" in machine.check_temporary().advice

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    assert "No usable" in machine.check_temporary().found


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"PATH": "/bin:/usr/bin", "PYTHONPATH": "", "LD_LIBRARY_PATH": "/opt/lib"}, "absolute paths"),
        ({}, "absolute paths"),
        ({"PATH": "/bin:"}, "PATH has an empty entry: that means the working directory"),
        ({"PATH": "/bin:./tools", "LD_LIBRARY_PATH": ":/opt"}, "PATH has './tools', LD_LIBRARY_PATH has an empty"),
    ],
)
def test_search_paths_with_the_working_directory_are_a_warning(environ, told):
    check = machine.check_lists(environ)
    assert told in check.found and check.status == ("ok" if "absolute" in told else "warning")


def test_the_environment_is_the_one_the_process_got(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ENVIRONMENT", tmp_path / "environ")
    assert machine.started_with() is os.environ
    (tmp_path / "environ").write_bytes(b"PATH=/bin:\0ODD\0A=b=c\0")
    assert machine.started_with() == {"PATH": "/bin:", "A": "b=c"}
