import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_cli.errors import IpaError, UsageError
from ipa_cli.output import Terminal
from ipa_cli.result import KeyValues, Result, Table
from tests.terminal import on_a_terminal

TABLE = Table(("name", "size"), (("[bold]a[/bold]", "1"), ("b\t\nc", "2")), title="things")


def result(**changes) -> Result:
    return Result(
        **{"command": "thing ls", "data": {"things": 2}, "blocks": ("two [red]things[/red]", TABLE), **changes}
    )


def test_people_get_lines_and_piped_tables(capsys):
    Terminal().show(result())
    out, err = capsys.readouterr()
    assert out == "two [red]things[/red]\nname\tsize\n[bold]a[/bold]\t1\nb c\t2\n"
    assert err == ""


def test_what_rich_takes_for_an_emoji_is_printed_as_it_is(capsys):
    said = "<lora:x:0.8>"
    Terminal().show(result(blocks=(said, KeyValues((("prompt", said),)))))
    Terminal().note(said)
    Terminal().fail("thing", IpaError(said, said))
    out, err = capsys.readouterr()
    assert out.splitlines() == [said, f"prompt: {said}"]
    assert err.splitlines() == [said, f"error: {said}", f"hint: {said}"]


def test_scripts_get_one_object(capsys):
    Terminal(json_mode=True).show(result())
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "schema_version": 1,
        "command": "thing ls",
        "status": "ok",
        "data": {"things": 2},
        "error": None,
    }
    assert out.count("\n") == 1 and err == ""


def test_a_result_that_means_failure_says_so(capsys):
    failed = result(failure=IpaError("2 of 3 things failed", "try them again"))
    Terminal(json_mode=True).show(failed)
    said = json.loads(capsys.readouterr().out)
    assert failed.exit_code == 1 and said["status"] == "error" and said["data"] == {"things": 2}
    assert said["error"] == {"type": "IpaError", "message": "2 of 3 things failed", "hint": "try them again"}


def test_quiet_prints_paths_alone(capsys):
    made = result(paths=(Path("a b.png"), Path("out")))
    Terminal(quiet=True).show(made)
    assert capsys.readouterr().out == "a b.png\nout\n"
    Terminal(quiet=True).show(result())
    assert capsys.readouterr().out.startswith("two [red]things")
    Terminal(quiet=True).show(result(paths=(Path("out"),), failure=IpaError("no")))  # what went wrong must not be lost
    assert capsys.readouterr().out.startswith("two [red]things")


def test_a_failure_is_two_lines_on_stderr(capsys):
    Terminal(quiet=True).fail("thing", IpaError("no [x] here, " + "very " * 60 + "far", "look [there]"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["error: no [x] here, " + "very " * 60 + "far", "hint: look [there]"]


def test_a_failure_for_scripts(capsys):
    Terminal(json_mode=True).fail("thing", UsageError("wrong", "right"))
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == {"type": "UsageError", "message": "wrong", "hint": "right"}
    assert err == ""


def test_a_bug_keeps_its_traceback(capsys):
    for json_mode in (False, True):
        try:
            raise ValueError("[oops]")
        except ValueError as error:
            Terminal(json_mode=json_mode, quiet=True).bug("thing", error)
        out, err = capsys.readouterr()
        assert "Traceback" in err and "test_a_bug_keeps_its_traceback" in err and "ValueError: [oops]" in err
        assert (json.loads(out)["error"]["type"] == "ValueError") if json_mode else out == ""


def test_numbers_json_does_not_know_never_reach_stdout(capsys):
    with pytest.raises(ValueError, match="JSON"):
        Terminal(json_mode=True).show(result(data={"speed": float("nan")}))
    assert capsys.readouterr().out == ""


@given(st.text())
def test_any_text_makes_one_line_of_json_in_any_locale(text):
    code = json.dumps({"type": "IpaError", "message": text, "hint": text})
    lines: list[str] = []
    terminal = Terminal(json_mode=True)
    original, sys.stdout = sys.stdout, type("Lines", (), {"write": lines.append, "flush": lambda: None})
    try:
        terminal.fail("thing", IpaError(text, text))
    finally:
        sys.stdout = original
    (line,) = lines
    assert json.loads(line)["error"] == json.loads(code) and line.isascii() and line.count("\n") == 1


def test_quiet_silences_notes_but_not_warnings(capsys):
    terminal = Terminal(quiet=True)
    terminal.note("by the way")
    with terminal.stage("loading") as doing, terminal.steps("steps", 2) as advance:
        doing("weights")
        advance()
    terminal.warn("mind [this]")
    assert capsys.readouterr() == ("", "warning: mind [this]\n")


def test_piped_progress_is_one_line_a_stage(capsys):
    terminal = Terminal()
    with terminal.stage("loading [demo]") as doing:
        doing("weights")
    with terminal.steps("steps", 2) as advance:
        advance()
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("loading [demo]: ") and err.endswith(" s\n") and err.count("\n") == 1
    assert "\x1b" not in err


PROGRESS = """
import time
from ipa_cli.output import Terminal
from ipa_cli.result import Result, Table
terminal = Terminal()
with terminal.stage("loading [x]") as doing:
    doing("weights")
    time.sleep(0.2)
with terminal.steps("cat.png", 3) as advance:
    for _ in range(3):
        time.sleep(0.1)
        advance()
terminal.show(Result("t", {}, (Table(("name",), (("[b]cell[/b]",),)),)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1"}])
def test_a_terminal_gets_bars_and_colour_unless_it_wants_none(world, environ):
    plain = {name: value for name, value in world.environ.items() if name != "NO_COLOR"}
    seen = on_a_terminal(("-c", PROGRESS), {**plain, "TERM": "xterm-256color", **environ})
    assert "loading [x]" in seen and "[b]cell[/b]" in seen
    assert ("3/3" in seen and "it/s" in seen and "\x1b[?25l" in seen) == (not environ)


WORDS = """
from ipa_cli.errors import IpaError
from ipa_cli.output import Terminal
from ipa_cli.result import KeyValues, Result
terminal = Terminal()
terminal.note("note " * 20)
terminal.warn("word " * 20)
terminal.fail("t", IpaError("wrong", "type " * 20))
terminal.show(Result("t", {}, (KeyValues((("prompt", "star " * 20), ("model", "[b]x[/b]"))),)))
"""


def test_a_terminal_gets_whole_words_but_commands_in_one_piece(world):
    seen = on_a_terminal(("-c", WORDS), {**world.environ, "TERM": "xterm-256color", "COLUMNS": "44"})
    lines = [line.strip() for line in re.sub(r"\x1b\[[\d;]*m", "", seen).splitlines()]
    assert all(len(line) <= 44 for line in lines if not line.startswith("hint"))
    assert {word for line in lines for word in line.split() if not line.startswith("hint")} <= {
        *("note", "warning:", "word", "error:", "wrong", "prompt", "star", "model", "[b]x[/b]")
    }
    assert f"hint: {'type ' * 20}".strip() in lines


STEERING = """
import sys
from pathlib import Path
from ipa_cli.output import Terminal
from ipa_cli.result import KeyValues, Result, Table
evil = "a\\x1b]52;c;EVIL\\x1b\\\\\\x9b2Jz"
terminal = Terminal()
with terminal.stage(evil) as doing, terminal.steps(evil, 1):
    doing(evil)
terminal.show(Result("t", {}, (evil, Table((evil,), ((evil,),)), KeyValues(((evil, evil),)))))
terminal.bug("t", ValueError(evil))
terminal.quiet = True
terminal.show(Result("t", {}, paths=(Path(evil),)))
"""


def test_nothing_in_a_name_steers_the_terminal(world):
    seen = on_a_terminal(("-c", STEERING), {**world.environ, "TERM": "xterm-256color", "COLUMNS": "200"})
    assert seen.count("EVIL") >= 6
    assert "\x1b]" not in seen and "\x9b" not in seen


TABLES = """
from ipa_cli.output import Terminal
from ipa_cli.result import Result, Table
narrow = Table(("key",), (("one\\ntwo",),))
Terminal().show(Result("t", {}, (Table(("key", "state"), (("a" * 20, "b" * 20),), narrow=narrow),)))
"""


@pytest.mark.parametrize(("columns", "wide"), [("60", True), ("30", False)])
def test_a_narrow_terminal_gets_the_narrow_table(world, columns, wide):
    seen = on_a_terminal(("-c", TABLES), {**world.environ, "TERM": "xterm-256color", "COLUMNS": columns})
    assert ("a" * 20 in seen, "state" in seen, "one" in seen) == (wide, wide, not wide)


FACTS = """
from ipa_cli.output import Terminal
from ipa_cli.result import KeyValues, Result, Table
table = Table(("key", "state"), (("steps", "from a flag"), ("scale", "")), "Settings")
Terminal().show(Result("t", {}, (KeyValues((("reference", "a red star"),)), table)))
"""


@pytest.mark.parametrize("columns", ["12", "29"])
def test_a_terminal_too_narrow_for_columns_gets_a_line_for_each_value(world, columns):
    seen = on_a_terminal(("-c", FACTS), {**world.environ, "TERM": "xterm-256color", "COLUMNS": columns})
    assert [line.rstrip() for line in seen.splitlines()] == [
        *("reference: a red star", "Settings", "key: steps", "state: from a flag", "key: scale", "state:")
    ]


def test_piped_facts_are_lines(capsys):
    Terminal().show(result(blocks=(KeyValues((("prompt", "a [star]"), ("speed", "2 it/s"))),)))
    assert capsys.readouterr().out == "prompt: a [star]\nspeed: 2 it/s\n"
