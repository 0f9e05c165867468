import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from ipa_cli import __version__
from ipa_cli.app import app
from ipa_cli.commands import config
from ipa_cli.output import Terminal


def leaves(node: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command, as the words one types: ("config", "show")."""
    commands = getattr(node, "commands", None)
    if commands is None:
        yield words
        return
    for name, command in commands.items():
        yield from leaves(command, (*words, name))


COMMANDS = [" ".join(words) for words in leaves(typer.main.get_command(app))]


def test_the_commands_are_found():
    assert {"generate", "config show", "config path"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(ipa, command):
    ran = ipa(*command.split(), "--help")
    assert ran.exit_code == 0 and ran.stderr == ""
    assert f"ipa {command}" in ran.stdout and "--json" in ran.stdout and "--quiet" in ran.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_wrong_usage_with_one_object(ipa, world, command):
    ran = ipa(*command.split(), "--json", "--no-such-flag")
    assert ran.exit_code == 2
    assert ran.json()["command"] == command and ran.json()["schema_version"] == 1
    error = ran.error()
    assert error["type"] == "UsageError" and "--no-such-flag" in error["message"]
    assert error["hint"] == f"`ipa {command} --help`"
    assert world.files() == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_a_bad_configuration_with_one_object(ipa, world, command):
    (world.cwd / "ipa.toml").write_text("stepz = 3")
    ran = ipa(*command.split(), "--json")
    if ran.exit_code == 2 and "Missing" in ran.error()["message"]:
        return  # it wants an argument before it looks at settings
    if command == "doctor":  # it goes on, and says so among its checks
        checks = {check["name"]: check for check in ran.json()["data"]["checks"]}
        assert ran.exit_code == 1 and "did you mean 'steps'?" in checks["settings"]["found"]
        return
    if command == "config show":  # so does this
        (problem,) = ran.json()["data"]["problems"]
        assert ran.exit_code == 1 and "did you mean 'steps'?" in problem["message"]
        return
    if command in ("config path", "config untrust", "config edit"):  # the way to find the bad file and to mend it
        assert "stepz" not in ran.stdout + ran.stderr
        return
    assert ran.exit_code == 1 and ran.json()["command"] == command
    assert ran.error()["type"] == "ConfigError" and "did you mean 'steps'?" in ran.error()["message"]


def test_a_bare_ipa_shows_its_commands(ipa):
    ran = ipa()
    assert "generate" in ran.stdout + ran.stderr and ran.exit_code in (0, 2)  # Click 8.2 made it 2


def test_the_version(ipa):
    ran = ipa("--version")
    assert (ran.exit_code, ran.stdout) == (0, f"ipa {__version__}\n")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["generat"], "No such command 'generat'"),
        (["config", "shw"], "No such command 'shw'"),
        (["generate", "--steps"], "--steps"),
        (["generate", "--steps", "many"], "--steps"),
        (["generate", "--scale", "abc"], "--scale"),
        (["generate", "surplus"], "surplus"),
    ],
)
def test_wrong_usage_is_two_lines_and_exit_status_2(ipa, typed, message):
    ran = ipa(*typed)
    assert ran.exit_code == 2 and ran.stdout == ""
    error, hint = ran.stderr.splitlines()
    assert error.startswith("error: ") and message in error
    assert hint.startswith("hint: `ipa ") and hint.endswith("--help`")


@pytest.mark.parametrize(
    ("typed", "json_mode", "quiet"),
    [("-y", False, False), ("-yq", False, True), ("-qy --json", True, True), ("--json --quiet --stale", True, True)],
)
def test_flags_in_a_group_count(ipa, monkeypatch, typed, json_mode, quiet):
    seen = []
    monkeypatch.setattr(Terminal, "show", lambda terminal, result: seen.append((terminal.json_mode, terminal.quiet)))
    assert ipa("cache", "clear", *typed.split()).exit_code == 0
    assert seen == [(json_mode, quiet)]


@pytest.mark.parametrize(
    ("typed", "json_mode"),
    [
        ("cache clear -- --json", False),  # a graph's name
        ("cache clear --older-than --json", False),  # an age
        ("cache clear --no-such-flag --json", True),
        ("cache clear --no-such-flag -- --json", False),
        ("cache cler --json", True),
        ("generate --steps many --json", True),
    ],
)
def test_what_is_wrong_with_a_command_line_is_told_as_it_wants(ipa, typed, json_mode):
    ran = ipa(*typed.split())
    assert ran.exit_code == 2 and bool(ran.stdout) == json_mode
    assert ran.json()["status"] == "error" if json_mode else ran.stderr.startswith("error: ")


def test_a_foreseen_failure_is_exit_status_1(ipa, world):
    (world.cwd / "ipa.toml").write_text("steps = ")
    ran = ipa("cache", "ls")
    assert (ran.exit_code, ran.stdout) == (1, "")
    error, hint = ran.stderr.splitlines()
    assert error.startswith("error: ") and str(world.cwd / "ipa.toml") in error and hint.startswith("hint: ")


@pytest.mark.parametrize("typed", [["config", "show"], ["config", "show", "--json"]])
def test_a_bug_keeps_its_traceback_and_is_exit_status_70(ipa, monkeypatch, typed):
    def broken(value: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(config, "_plain", broken)
    ran = ipa(*typed)
    assert ran.exit_code == 70
    assert "Traceback" in ran.stderr and "ZeroDivisionError: a bug" in ran.stderr and "report it" in ran.stderr
    if "--json" in typed:
        assert ran.error()["type"] == "ZeroDivisionError" and ran.json()["command"] == "config show"
    else:
        assert ran.stdout == ""


@pytest.mark.parametrize("typed", [["config", "show"], ["config", "show", "--json"]])
def test_an_interruption_is_exit_status_130(ipa, monkeypatch, typed):
    def interrupted(value: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "_plain", interrupted)
    ran = ipa(*typed)
    assert ran.exit_code == 130 and "Traceback" not in ran.stderr
    if "--json" in typed:
        assert ran.error()["type"] == "Interrupted"


def test_a_reader_that_goes_away_is_no_bug(world):
    """`ipa config show | head -1`"""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ipa_cli", "config", "show"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=world.environ)
    os.close(write)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("typed", [["config", "show"], ["config", "show", "--json"]])
def test_a_full_disk_under_stdout_is_told(world, typed):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "ipa_cli", *typed]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=world.environ)
    assert done.returncode == 1
    assert os.strerror(errno.ENOSPC) in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("typed", [["--json"], []])
def test_names_no_locale_can_show_are_told_all_the_same(world, typed):
    """A file name may be any bytes; LANG=C and a pipe show ASCII alone."""
    name = "ü".encode() + b"\xff.png"
    command = [sys.executable, "-m", "ipa_cli", "generate", "--image", name, *typed]
    for environ in ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {}):
        done = subprocess.run(command, capture_output=True, env={**world.environ, **environ})
        assert done.returncode == 1, done.stderr
        assert b"does not exist" in (done.stdout if typed else done.stderr)
        assert b"Traceback" not in done.stderr


def test_python_m_and_the_script_are_the_same(world, ipa_process):
    script = Path(sys.executable).with_name("ipa")
    if not script.exists():
        pytest.skip("the package is not installed beside this Python")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, env=world.environ)
    assert done.stdout == ipa_process("--version").stdout == f"ipa {__version__}\n"
