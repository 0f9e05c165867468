"""The C++ compiler: absent, broken, linked statically."""

import shutil
import stat

import pytest

from ipa_cli.doctor import compiler
from ipa_cli.system import child
from tests.doctor.samples import script


@pytest.fixture
def gxx(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    return shutil.which("g++") or pytest.skip("there is no g++ here to build with")


@pytest.mark.slow
def test_a_working_compiler_is_ok(gxx):
    quick = compiler.check(False, False, False)
    assert quick.status == "ok" and gxx in quick.found
    built = compiler.check(False, True, False)
    assert built.status == "ok" and "builds and runs" in built.found


@pytest.mark.slow
def test_a_compiler_that_links_libstdcxx_statically_crashes_beside_torch(gxx, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(script(tmp_path / "g++", f'exec {gxx} -static-libstdc++ "$@"')))
    check = compiler.check(True, True, with_torch=True)
    if "cannot build" in check.found:
        pytest.skip("libstdc++.a is not installed here")
    assert check.status == "failure" and "statically" in check.found and "CXX=" in check.advice
    assert "crashed with SIG" in check.found  # it does crash, and not in this process


@pytest.mark.parametrize(
    ("cxx", "words"),
    [
        ("no-such-compiler", "there is no program 'no-such-compiler' (CXX)"),
        ("", "there is no program ''"),
        ("g++ -O2", "there is no program 'g++ -O2'"),
    ],
)
def test_a_missing_compiler_is_a_failure(monkeypatch, cxx, words):
    monkeypatch.setenv("CXX", cxx)
    check = compiler.check(True, True, False)
    assert check.status == "failure" and words in check.found and check.asked


def test_an_empty_path_is_a_failure(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiler.check(False, False, False).status == "failure"


VERSION = '[ "$1" = --version ] && echo fine && exit'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("exit 3", "status 3"),
        (f'{VERSION}; echo "x.cpp:1: fatal error: regex: No such file" >&2; exit 1', "regex: No such file"),
        (f"{VERSION}; kill -9 $$", "SIGKILL"),
        (f"{VERSION}; printf '\\0libstdc++.so.6' > \"$6\"", "does not run"),
    ],
)
def test_a_compiler_that_fails_is_a_failure(tmp_path, monkeypatch, body, words):
    monkeypatch.setenv("CXX", str(script(tmp_path / "cxx", body)))
    check = compiler.check(False, True, False)
    assert check.status == "failure" and words in check.found, check


def test_a_program_without_a_header_cannot_be_started(tmp_path, monkeypatch):
    broken = tmp_path / "cxx"
    broken.write_bytes(b"\x7fELF nothing more")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert "cannot be started" in compiler.check(False, False, False).found


@pytest.mark.slow
def test_nothing_of_doctor_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    child.python("pass", 60)
    compiler.check(False, True, False)
    assert not list(tmp_path.iterdir())
    assert stat.S_ISDIR(tmp_path.stat().st_mode)
