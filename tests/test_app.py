import errno
import logging
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
from ipa_cli.config import FIELDS
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
    assert ipa(*command.split(), "-h") == ran
    example = ran.stdout.partition("Example:\n  ")[2].strip()
    assert example.startswith(f"ipa {command}")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_narrow_terminal(ipa, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "40")
    lines = ipa(*command.split(), "--help").stdout.partition("Example:")[0].splitlines()
    assert max(map(len, lines)) <= 40
    assert sum(len(line.split()) > 2 for line in lines if line.startswith("        ")) > (8 if command else 2)


def test_help_tells_defaults(ipa):
    told = " ".join(ipa("generate", "--help").stdout.split())
    for default in ("[default: the model's]", "[default: pad]", "[default: compile]", "[default: 1]", "[default: 0]"):
        assert default in told


def test_help_of_a_batch_says_nothing_that_holds_for_one_picture_alone(ipa):
    told = " ".join(ipa("batch", "--help").stdout.split())
    assert "stdin" not in told and "Seed of every job that has none" in told


def test_a_sweep_has_scales_in_place_of_a_scale(ipa):
    ran = ipa("sweep-scale", "--scale", 0.5)
    assert ran.exit_code == 2 and "--scales" in ran.stderr


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
    if "is missing" in ran.stdout:
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
    assert ran.exit_code == 2 and ran.json()["command"] == command
    assert ran.error()["type"] == "ConfigError" and "did you mean 'steps'?" in ran.error()["message"]


@pytest.mark.parametrize(("typed", "said"), [("", "generate"), ("cache", "verify"), ("config", "path")])
def test_a_group_alone_shows_its_commands(ipa, typed, said):
    ran = ipa(*typed.split())
    assert ran.exit_code == 2 and ran.stdout == ""
    assert ran.stderr.startswith("Usage: ipa") and f"  {said} " in ran.stderr and "error:" not in ran.stderr


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version(ipa, flag):
    ran = ipa(flag)
    assert (ran.exit_code, ran.stdout) == (0, f"ipa {__version__}\n")


def test_verbose_tells_where_settings_come_from(ipa, monkeypatch):
    monkeypatch.setenv("IPA_STEPS", "3")
    assert ipa("cache", "ls").stderr == ""
    ran = ipa("cache", "ls", "--verbose")
    assert ran.exit_code == 0 and ran.stderr == "steps = 3 (IPA_STEPS)\n"


@pytest.fixture
def own_logging(monkeypatch):
    """The logging of this process as it was, afterwards."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)


@pytest.mark.usefixtures("own_logging")
def test_debug_gives_a_foreseen_failure_its_traceback(ipa):
    assert "Traceback" not in ipa("cache", "verify", "abc").stderr
    ran = ipa("cache", "verify", "abc", "--debug", "--json")
    assert ran.exit_code == 1 and "Traceback" in ran.stderr and "no graph" in ran.error()["message"]


@pytest.mark.usefixtures("own_logging")
def test_a_log_file_has_what_is_said_and_what_is_not_shown(ipa, world, monkeypatch):
    monkeypatch.setenv("IPA_IMAGE", "https://me:secret@host/a.png")
    for _ in range(2):
        assert "no graph" in ipa("cache", "verify", "abc", "-q", "--log-file", "log").stderr
    log = (world.cwd / "log").read_text()
    assert log.count("image = ") == log.count("error: no graph in the cache") == 2 and "secret" not in log
    ran = ipa("cache", "ls", "--log-file", "no/such/folder")
    assert ran.exit_code == 1 and "No such file" in ran.stderr


@pytest.mark.usefixtures("own_logging")
def test_a_log_file_is_neither_a_link_nor_a_pipe(ipa, world):
    mine = world.cwd / "mine"
    mine.write_text("mine")
    (world.cwd / "link").symlink_to(mine)
    os.mkfifo(world.cwd / "pipe")
    for name, words in (("link", "link is a link"), ("pipe", "No such device")):
        ran = ipa("cache", "verify", "abc", "--log-file", name)
        assert ran.exit_code == 1 and words in ran.stderr
    assert mine.read_text() == "mine"
    full = ipa("cache", "verify", "abc", "--log-file", "/dev/full")
    assert full.exit_code == 1 and "log file is incomplete" in full.stderr and "no graph" in full.stderr


@pytest.mark.usefixtures("own_logging")
def test_libraries_are_heard_with_debug_alone(ipa, world, monkeypatch):
    monkeypatch.setattr(Terminal, "show", lambda terminal, result: logging.getLogger("some.library").debug("hello"))
    assert "hello" not in ipa("config", "path", "--log-file", "log").stderr
    assert "some.library: DEBUG: hello" in (world.cwd / "log").read_text()
    assert "some.library: DEBUG: hello" in ipa("config", "path", "--debug").stderr


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["generat"], "there is no command ipa generat; did you mean 'generate'?"),
        (["config", "shw"], "there is no command ipa config shw; did you mean 'show'?"),
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
    assert hint.startswith("hint: ") and "`ipa " in hint and "--help`" in hint


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
    "typed", ["--json -q cache ls", "--json cache -q ls", "cache --json ls -q", "cache ls --json -q"]
)
def test_flags_of_every_command_count_before_its_name_too(ipa, monkeypatch, typed):
    seen = []
    monkeypatch.setattr(Terminal, "show", lambda terminal, result: seen.append((terminal.json_mode, terminal.quiet)))
    assert ipa(*typed.split()).exit_code == 0
    assert seen == [(True, True)]


@pytest.mark.parametrize(
    "typed", ["--json cache verify abc", "cache --json verify abc", "-q --json cache verify --no-such"]
)
def test_a_failure_after_flags_before_the_name_is_an_object_that_names_the_command(ipa, typed):
    ran = ipa(*typed.split())
    assert ran.exit_code in (1, 2) and ran.error()["hint"]
    assert ran.json()["command"] == "cache verify"


def test_every_setting_is_a_flag_of_generate(ipa):
    told = ipa("generate", "--help").stdout.split()
    assert not [name for name in FIELDS if "--" + name.replace("_", "-") not in told]


@pytest.mark.parametrize(
    ("typed", "json_mode"),
    [
        ("cache clear --older-than --json", False),  # an age
        ("cache clear --no-such-flag --json", True),
        ("cache clear --no-such-flag -- --json", False),
        ("cache cler --json", True),
        ("generate --steps many --json", True),
    ],
)
def test_what_is_wrong_with_a_command_line_is_reported_as_it_wants(ipa, typed, json_mode):
    ran = ipa(*typed.split())
    assert ran.exit_code == 2 and bool(ran.stdout) == json_mode
    assert ipa("cache", "clear", "--", "--json").stdout == ""  # a graph of that name
    assert ran.json()["status"] == "error" if json_mode else ran.stderr.startswith("error: ")


WORDS = [  # wrong in themselves
    "generate --prompt x --steps 0",
    "generate --width 100",
    "generate --size 100x100 --width 64",
    "generate --backend indcutor",
    "generate --scheduler eulr",
    "generate --device gpu",
    "generate --output {nothing}.png",
    "generate --model nosuchmodel",
    "generate --cache-max-size many",
    "sweep-scale --scales 0,x",
    "sweep-scale --from 2 --to 1",
    "sweep-scale --resume --force",
    "compile --size big",
    "compile --dynamic 256",
    "compile --backend eager",
    "embed a.png --output a.txt",
    "embed a.png --output -",
    "sweep-scale --output -",
    "batch -",
    "batch jobs.jsonl --output -",
    "batch jobs.jsonl --actors 2",
    "batch jobs.jsonl --devices cpu --ray auto",
    "bench --output -",
    "cache export -",
    "bench --backends fast",
    "bench --resume",
    "bench --size x",
    "cache ls --sort name",
    "cache ls --backend indcutor",
    "cache clear --backend indcutor --yes",
    "cache clear --older-than soon",
    "cache clear --max-size much",
    "cache push ftp://host/graphs",
    "cache pull s3://",
    "cache pull https://me:secret@host/graphs",
    "cache trust ed25519:abc --yes",
    "cache trust --name ci",
    "generate --cache-remote graphs",
    "config sho",
    "doctor --device",
    "samplers eulr",
    "serve --host 0.0.0.0",
    "serve --warm big",
    "serve --max-upload much",
]
WORLD = [  # wrong only for what is, or is not, there
    "generate --image missing.png",
    "generate --embeds missing",
    "generate --from missing.png",
    "generate --ip-adapter missing",
    "generate --device cuda:7",
    "sweep-scale --image missing.png",
    "batch missing.jsonl",
    "embed missing.png",
    "bench --compare missing.json",
    "bench --python nexfort=/missing",
    "cache verify abc",
    "cache clear abc --yes",
    "cache export graphs.tar",
    "cache import missing.tar --trust",
    "cache trust abc --yes",
    "cache push graphs",
    "cache pull graphs",
    "cache sign",
    "cache untrust ci",
    "cache keygen --cache-signing-key /dev/null",
    "cache keys --cache-signing-key missing.pem",
    "config trust",
    "serve --token-file missing",
]


@pytest.mark.parametrize(("exit_code", "typed"), [*((2, typed) for typed in WORDS), *((1, typed) for typed in WORLD)])
def test_wrong_usage_exits_with_2_and_other_failures_with_1(ipa, world, exit_code, typed):
    ran = ipa(*typed.split())
    assert ran.exit_code == exit_code and ran.stdout == "", ran
    error, hint = ran.stderr.splitlines()[-2:]
    assert error.startswith("error: ") and hint.startswith("hint: ")
    assert world.files() == []


def test_every_command_has_its_part_in_the_rule():
    assert {" ".join(command.split()[:2]) for command in COMMANDS if command.startswith("cache")} <= {
        *(" ".join(typed.split()[:2]) for typed in [*WORDS, *WORLD]),
        "cache dir",  # which takes nothing and looks at nothing
    }
    alone = {typed.split()[0] for typed in [*WORDS, *WORLD]}
    assert {command for command in COMMANDS if " " not in command} <= alone


@pytest.mark.parametrize("line", ["steps = ", "steps = 0", "stepz = 3", "steps = 'many'"])
def test_a_wrong_file_of_settings_is_exit_status_2(ipa, world, line):
    (world.cwd / "ipa.toml").write_text(line)
    ran = ipa("cache", "ls")
    assert (ran.exit_code, ran.stdout) == (2, "")
    error, hint = ran.stderr.splitlines()
    assert error.startswith("error: ") and str(world.cwd / "ipa.toml") in error and hint.startswith("hint: ")


@pytest.mark.parametrize("typed", [["config", "show"], ["config", "show", "--json"]])
def test_a_bug_keeps_its_traceback_and_is_exit_status_70(ipa, monkeypatch, typed):
    def broken(value: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(config, "as_json", broken)
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

    monkeypatch.setattr(config, "as_json", interrupted)
    ran = ipa(*typed)
    assert ran.exit_code == 130 and "Traceback" not in ran.stderr
    if "--json" in typed:
        assert ran.error()["type"] == "Interrupted"


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "gone"), [("config show", "stdout"), ("cache verify", "stderr")])
def test_a_reader_that_goes_away_is_no_bug(world, typed, gone):
    """`ipa config show | head -1`, and what tells how far it is with `2>&1 >file | head -1`"""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ipa_cli", *typed.split()]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, gone: write}
    done = subprocess.run(command, **streams, text=True, env=world.environ)
    os.close(write)
    assert done.returncode == 0 and not done.stderr
    assert gone == "stdout" or done.stdout.startswith("checked 0 graphs")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("typed", [["config", "show"], ["config", "show", "--json"], ["--help"], ["-V", "--json"]])
def test_a_full_disk_under_stdout_is_reported(world, typed):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "ipa_cli", *typed]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=world.environ)
    assert done.returncode == 1
    assert os.strerror(errno.ENOSPC) in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("typed", [["--json"], []])
def test_names_no_locale_can_show_are_reported_all_the_same(world, typed):
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
