import json
import os
import signal
import subprocess
import sys

import pytest

from ipa_cli.app import run
from ipa_cli.commands import config
from ipa_cli.output import Terminal
from ipa_cli.result import Result
from ipa_cli.system import interruption
from ipa_cli.system.interruption import Interruption

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests started in the background ignore it
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def listening() -> Interruption:
    listener = Interruption()
    listener.listen()
    return listener


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_ends_the_command_with_its_own_status(world, capsys, monkeypatch, number):
    cleaned = []

    def work(value):
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # an impatient second one
            cleaned.append(True)

    monkeypatch.setattr(config, "as_json", work)
    assert run(["config", "show"], listening()) == 128 + number
    out, err = capsys.readouterr()
    assert cleaned and out == ""
    assert err == ("interrupted\n" if number == signal.SIGINT else f"ended by {number.name}\n")


def test_a_signal_during_the_imports_is_answered_after_them(world):
    code = """
import os, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "ipa_cli.app":
            os.kill(os.getpid(), 15)

sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["config", "path", "--json"]
from ipa_cli.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=world.environ)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert json.loads(done.stdout)["status"] == "error" and "Traceback" not in done.stderr


def test_a_signal_during_a_later_import_is_answered_after_it(world, tmp_path):
    (tmp_path / "torn.py").write_text(
        "import os, time\nos.kill(os.getpid(), 15)\ntime.sleep(0.1)\n"
        "os.kill(os.getpid(), 2)\nprint('whole', flush=True)\n"
    )
    code = """
from ipa_cli.commands import config
def work(value):
    import torn
    import time
    time.sleep(60)
config.as_json = work
import sys
sys.argv[1:] = ["config", "show"]
from ipa_cli.__main__ import main
main()
"""
    environ = {**world.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "whole\n", "ended by SIGTERM\n")


def test_an_import_that_does_not_end_is_broken_off(world, tmp_path):
    (tmp_path / "endless.py").write_text("import os, time\nos.kill(os.getpid(), 15)\ntime.sleep(60)\n")
    code = """
from ipa_cli.system import interruption
interruption.GRACE = 0.2
listener = interruption.Interruption()
listener.listen()
try:
    import endless
except KeyboardInterrupt:
    print(listener.number)
"""
    environ = {**world.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=50)
    assert done.stdout == f"{signal.SIGTERM:d}\n", done.stderr


def test_a_signal_that_is_ignored_stays_ignored(world):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    listening()
    os.kill(os.getpid(), signal.SIGHUP)


def test_after_the_grace_a_second_signal_counts(monkeypatch):
    monkeypatch.setattr(interruption, "GRACE", 0.0)
    listening()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_answer_is_printed_whole(world, capsys, monkeypatch):
    def answer(terminal: Terminal, result: Result) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        show(terminal, result)

    show = Terminal.show
    monkeypatch.setattr(Terminal, "show", answer)
    assert run(["config", "path", "--json"], listening()) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ok"
