"""`--preview`: what a terminal is sent depends on what it says it can do."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from ipa_cli.errors import IpaError
from ipa_cli.output import Terminal

pytest.importorskip("textual_image")
# Red above, blue below.
SHOW = """
from pathlib import Path
from PIL import Image
from ipa_cli.output import Terminal
from ipa_cli.result import Picture, Result
picture = Image.new("RGB", (16, 16), (255, 0, 0))
picture.paste((0, 0, 255), (0, 8, 16, 16))
picture.save("cat.png")
terminal = Terminal(FLAGS)
terminal.check_preview()
terminal.show(Result("generate", {}, ("before", Picture(Path("cat.png")), "after")))
"""
ASKED, KITTY = b"\x1b[c", b"\x1b_G"


def on_a_terminal(
    world, code: str = SHOW, flags: str = "", answers: dict[bytes, bytes] | None = None, stdin: bool = True, **environ
) -> str:
    """What a terminal of 40x20 cells gets that answers what it is asked, in the order of the questions."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 40, 400, 400))
    plain = {name: value for name, value in world.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-c", code.replace("FLAGS", flags)],
        stdin=theirs if stdin else subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**plain, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environ},
        start_new_session=True,
    )
    os.close(theirs)
    seen, pending, ends = b"", dict(answers or {}), time.monotonic() + 60
    try:
        while time.monotonic() < ends:
            if select.select([ours], [], [], 0.1)[0]:
                seen += os.read(ours, 4096)
            for asked in sorted((asked for asked in pending if asked in seen), key=seen.index):
                os.write(ours, pending.pop(asked))
    except OSError:
        pass  # the other end closed: on Linux that is EIO
    finally:
        os.close(ours)
        if time.monotonic() >= ends:
            process.kill()
    assert process.wait() == 0, seen
    return seen.decode()


def patiently(world, expected: str, answers: dict[bytes, bytes]) -> str:
    """Try again where the answer came too late: textual-image waits 0.1 s, which a busy machine may not keep."""
    for _ in range(3):
        seen = on_a_terminal(world, answers=answers)
        if expected in seen:
            break
    return seen


def test_half_blocks_where_the_terminal_can_no_more(world):
    seen = on_a_terminal(world, answers={ASKED: b"\x1b[?62;22c"})
    rows = [line for line in seen.splitlines() if "▀" in line]
    # How many depends on the shape of a cell, which a busy machine may ask for too late; it must fit the window.
    assert 8 <= len(rows) <= 18 and max(row.count("▀") for row in rows) <= 40
    assert "38;2;255;0;0" in rows[0] and "38;2;0;0;255" in rows[-1] and "38;2;0;0;255" not in rows[0]
    assert seen.index("before") < seen.index("▀") < seen.index("after")


def test_half_blocks_where_it_does_not_answer(world):
    assert "▀" in on_a_terminal(world)


def test_sixels_where_it_says_so(world):
    seen = patiently(world, "\x1bP", {ASKED: b"\x1b[?62;4;22c"})
    assert re.search(r"\x1bP[\d;]*q", seen) and "▀" not in seen and "after" in seen


def test_kittys_protocol_where_it_says_so(world):
    seen = patiently(world, "\U0010eeee", {ASKED: b"\x1b[?62c", KITTY: b"\x1b_Gi=1;OK\x1b\\"})
    assert "\U0010eeee" in seen and "▀" not in seen and "after" in seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "stdin", "environ"),
    [
        ("json_mode=True", True, {}),
        ("quiet=True", True, {}),
        ("", True, {"NO_COLOR": "1"}),
        ("", True, {"TERM": "dumb"}),
        ("", False, {}),
    ],
)
def test_nothing_is_shown_or_asked_where_it_would_harm(world, flags, stdin, environ):
    seen = on_a_terminal(world, flags=flags, stdin=stdin, **environ)
    assert "▀" not in seen and "\x1b[c" not in seen and "\x1bP" not in seen and "\x1b_G" not in seen
    assert ("no preview: " in seen) == (not flags)


@pytest.mark.slow
def test_nothing_is_shown_when_piped(ipa, world):
    flags = ("--width", 64, "--height", 64, "--steps", 1, "--warmup", 0, "--seed", 1, "--preview")
    ran = ipa("generate", *flags)
    assert ran.exit_code == 0 and "▀" not in ran.stdout and "\x1b" not in ran.stdout + ran.stderr
    assert ran.stdout.startswith("ipa-1.png") and "preview" not in ran.stderr


def test_a_missing_package_is_reported_with_the_command_that_brings_it(world):
    without = "import importlib.util, sys; find = importlib.util.find_spec\n"
    without += "importlib.util.find_spec = lambda name, *more: None if name == 'textual_image' else find(name, *more)\n"
    without += "from ipa_cli.app import run; code = run(['generate', '--preview', '--width', '64', '--height', '64'])\n"
    seen = on_a_terminal(world, code=without + "print('status', code)")
    assert "pip install textual-image" in seen and "status 1" in seen
    assert world.files() == []


def test_a_script_is_not_stopped_by_a_missing_package(monkeypatch):
    monkeypatch.setattr("ipa_cli.output.find_spec", lambda name: None)
    Terminal().check_preview()  # stdout is no terminal here
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("ipa_cli.output.Terminal._shows_pictures", True)
    with pytest.raises(IpaError, match="textual-image"):
        Terminal().check_preview()
    Terminal(json_mode=True).check_preview()


@pytest.mark.slow
def test_generate_shows_each_picture_below_its_line(world):
    code = (
        "from ipa_cli.app import run; run('generate --preview --width 64 --height 64 --steps 1 --warmup 0 "
        "--seed 1 -n 2 --output cat.png'.split())"
    )
    seen = on_a_terminal(world, code=code, answers={ASKED: b"\x1b[?62;22c"})
    order = [seen.index("cat-1.png  64x64"), seen.index("▀"), seen.index("cat-2.png  64x64"), seen.rindex("▀")]
    assert order == sorted(order)
    assert Image.open(Path("cat-1.png")).size == (64, 64)
