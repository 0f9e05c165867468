"""What a process finds around it: who it runs as, where, with which streams, and words of any bytes."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Ran, run_here

pytestmark = pytest.mark.slow

LIGHT = ["config show", "config path", "cache ls", "cache dir", "cache verify", "cache clear --yes"]
NOBODY = 65534


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}])
@pytest.mark.parametrize("typed", LIGHT)
def test_a_user_without_a_home_is_reported_which_folder_to_name(ipa, world, monkeypatch, typed, environ):
    nowhere(monkeypatch, environ)
    ran = ipa(*typed.split())
    assert (ran.exit_code == 0) == typed.startswith("config"), ran.stderr
    if ran.exit_code:
        assert ran.exit_code == 1 and "HOME is not set" in ran.stderr and "--cache-dir" in ran.stderr
    assert ipa(*typed.split(), "--json").exit_code == ran.exit_code
    monkeypatch.setenv("IPA_CACHE_DIR", str(world.home / "graphs"))
    assert ipa(*typed.split()).exit_code == 0
    assert world.files() == []  # above all no folder of the name "~"


def nowhere(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    """As in a container under a number that /etc/passwd does not know."""

    def unknown(user: int) -> None:
        raise KeyError(user)

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize(
    "typed",
    [
        "embed a.png --output ~nobody-of-that-name/a.safetensors",
        "sweep-scale --output ~nobody-of-that-name/out",
        "generate --output ~nobody-of-that-name/a.png",
        "generate --embeds ~nobody-of-that-name/a",
        "generate --image ~nobody-of-that-name/a.png",
        "generate --model ~nobody-of-that-name/model",
        "generate --adapter ~nobody-of-that-name/a.safetensors:b",
        "generate --prompts-from ~nobody-of-that-name/a.txt",
        "generate --cache-dir ~nobody-of-that-name/a",
        "bench --python nexfort=~nobody-of-that-name/python",
        "bench --compare ~nobody-of-that-name/results.json",
        "config set cache_dir ~nobody-of-that-name/graphs",
    ],
)
def test_the_missing_home_of_an_unknown_user_is_reported(ipa, typed):
    ran = ipa(*typed.split())
    assert ran.exit_code in (1, 2) and "nobody" in ran.stderr and "hint: " in ran.stderr, ran


def test_the_doctor_says_that_graphs_have_no_place(ipa, monkeypatch):
    nowhere(monkeypatch, {})
    checks = {check["name"]: check for check in ipa("doctor", "--json").json()["data"]["checks"]}
    assert "HOME is not set" in checks["graph cache"]["found"] and checks["graph cache"]["status"] == "failure"


@pytest.mark.parametrize("typed", [*LIGHT, "generate --output /tmp/a.png", "embed /tmp/a.png"])
def test_a_removed_working_directory_is_reported(ipa, world, typed):
    world.cwd.rmdir()
    ran = ipa(*typed.split())
    assert ran.exit_code == 1 and "has been removed" in ran.stderr and "hint: cd " in ran.stderr
    assert ipa("--version").exit_code == 0


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder that everybody may enter, while this process has the rights of another user than root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def run_as(user: int, *arguments: object) -> Ran:
    """Run `ipa` with the rights of `user`, once root has imported everything: the interpreter may be root's alone."""
    run_here(*arguments)
    os.seteuid(user)
    try:
        return run_here(*arguments)
    finally:
        os.seteuid(0)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.parametrize("home", [{"HOME": "/"}, {}])
def test_a_container_under_an_unknown_number_draws(world, nobody, home):
    nobody.chmod(0o777)
    # The interpreter may be root's alone: reading everything is all that is kept of root's rights.
    rights = ["--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    user = ["setpriv", "--reuid=54321", "--regid=54321", *rights]
    command = [sys.executable, "-m", "ipa_cli", "generate", "--steps", "1", "--size", "64x64", "-q"]
    kept = {name: text for name, text in world.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    environ = {name: text for name, text in kept.items() if not name.startswith("XDG_")}
    done = subprocess.run([*user, *command], cwd=nobody, env={**environ, **home}, capture_output=True, text=True)
    if done.stderr.startswith("setpriv:"):
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in nobody.iterdir()] == done.stdout.splitlines()  # and no folder of the name "~"
    assert (nobody / done.stdout.strip()).stat().st_uid == 54321


@pytest.mark.parametrize("typed", LIGHT[2:])
@pytest.mark.parametrize("below", ["", "graphs"])
def test_another_users_closed_folder_is_reported(world, monkeypatch, nobody, typed, below):
    closed = nobody / "closed"
    (closed / below / "graphs-v1" / "inductor" / "cpu" / f"256x256-b1-{'a' * 16}").mkdir(parents=True)
    closed.chmod(0o700)
    monkeypatch.setenv("IPA_CACHE_DIR", str(closed / below))
    monkeypatch.setenv("IPA_CONFIG", "")
    ran = run_as(NOBODY, *typed.split())
    if typed == "cache dir":
        assert ran.exit_code == 0
    else:
        assert ran.exit_code == 1 and "Permission denied" in ran.stderr and "--cache-dir" in ran.stderr


@pytest.mark.parametrize(
    "typed", ["config path", "bench --compare {}/a", "bench --python nexfort={}/a", "bench --python nexfort={}"]
)
def test_a_closed_home_is_reported_by_what_looks_into_it(world, monkeypatch, nobody, typed):
    closed = nobody / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(closed))
    monkeypatch.delenv("XDG_CONFIG_HOME")
    ran = run_as(NOBODY, *typed.format(closed).split())
    if typed == "config path":
        assert ran.exit_code == 0 and str(closed) in ran.stdout
    else:
        assert ran.exit_code == 1 and "cannot be read: Permission denied" in ran.stderr


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--prompt", "expected text in UTF-8"),
        ("--negative-prompt", "expected text in UTF-8"),
        ("--revision", "expected text in UTF-8"),
        ("--variant", "expected text in UTF-8"),
        ("--model", "unknown model"),
        ("--ip-adapter", "there is no adapter"),
        ("--ip-adapter-subfolder", "\\udcff"),
        ("--ip-adapter-weight-name", "\\udcff"),
        ("--ip-layers", "not JSON"),
        ("--backend", "unknown backend"),
        ("--device", "unknown device"),
        ("--scheduler", "unknown sampler"),
        ("--embeds", "does not exist"),
        ("--mask", "does not exist"),
    ],
)
def test_arguments_that_are_not_unicode_are_reported(ipa, flag, message):
    ran = ipa("generate", flag, os.fsdecode(b"a\xff"))
    status, said = ran.exit_code, ran.stderr.encode(errors="backslashreplace").decode()  # reports take Unicode alone
    assert status in (1, 2) and message in said


def test_a_variable_that_is_no_unicode_is_reported(ipa, monkeypatch):
    monkeypatch.setenv("IPA_PROMPT", os.fsdecode(b"caf\xe9"))
    ran = ipa("cache", "ls", "--json")
    assert ran.exit_code == 2 and "expected text in UTF-8" in ran.error()["message"]


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_acts_as_dev_null(world, streams):
    command = f'"{sys.executable}" -m ipa_cli config show --json {streams}'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=world.environ)
    assert done.returncode == 0 and done.stderr == ""
    assert (done.stdout == "") == (" >" in f" {streams}")
    if done.stdout:
        assert json.loads(done.stdout)["status"] == "ok"


def test_an_error_without_a_stderr_keeps_its_exit_status(world):
    command = f'"{sys.executable}" -m ipa_cli generat 2>&- >&-'
    assert subprocess.run(command, shell=True, env=world.environ).returncode == 2
