"""Processes that measure: what they answer, how they fail, and that none is left behind."""

import json
import time
from pathlib import Path

import pytest

from ipa_cli.bench import process
from tests.system.test_child import gone

JOB = {"kind": "run", "settings": {}}


@pytest.fixture
def script(tmp_path):
    """A program in the place of Python, as `--python` may name one around it."""

    def write(text):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return write


def ask(python, log, **more):
    said = []
    answer = process.ask(JOB, python, log, said.append, said.append, **more)
    return answer, said


def test_lines_on_the_way_and_an_answer(script, tmp_path, monkeypatch):
    python = script(
        f"""read job; echo "$job" >{tmp_path}/job; echo "a wrapper says something"
        echo '{{"doing": "loading"}}'; echo '{{"warning": "hot"}}'
        echo '{{"environment": {{"device": "cpu"}}}}'; echo '{{"figures": {{"e2e_s": 1.5}}}}'
        echo '{{"done": true}}'; sleep 60"""
    )
    monkeypatch.chdir(tmp_path)
    answer, said = ask(python, tmp_path / "log")
    assert (answer.figures, answer.environment, answer.reason) == ({"e2e_s": 1.5}, {"device": "cpu"}, None)
    assert said == ["loading", "hot"] and answer.warnings == ("hot",) and json.loads(Path("job").read_text()) == JOB
    assert not Path("log").exists()


def test_a_foreseen_failure_is_handed_on(script, tmp_path):
    answer, _ = ask(script("""echo about >&2; echo '{"failed": "no GPU", "hint": "buy one"}'"""), tmp_path / "log")
    assert (answer.figures, answer.reason, answer.hint, answer.log) == (None, "no GPU", "buy one", ("about",))


def test_figures_outlive_what_fails_after_them(script, tmp_path):
    python = script("""echo '{"figures": {"e2e_s": 1.5}}'; seq 100 >&2; echo "CUDA error" >&2; exit 1""")
    answer, _ = ask(python, tmp_path / "log")
    assert (answer.figures, answer.reason) == ({"e2e_s": 1.5}, "the process ended with status 1: CUDA error")
    assert answer.log == (*map(str, range(82, 101)), "CUDA error")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("echo Traceback >&2; echo 'ValueError: 3' >&2; exit 1", "the process ended with status 1: ValueError: 3"),
        (
            """echo 'ValueError: 3' >&2; echo '{"done": false}'; sleep 60""",
            "the process ended with status 1: ValueError: 3",
        ),
        ("echo; exit 0", "the process ended with status 0: no message"),
        ("kill -SEGV $$", "the process crashed with SIGSEGV (no message)"),
    ],
)
def test_a_crash_is_told_and_its_words_are_kept(script, tmp_path, text, told):
    answer, _ = ask(script(text), tmp_path / "log")
    assert (answer.figures, answer.reason) == (None, told)
    assert (tmp_path / "log").exists() == ("ValueError" in text)
    if "Traceback" in text:
        assert (tmp_path / "log").read_text() == "Traceback\nValueError: 3\n"
        assert str(tmp_path / "log") in answer.hint and answer.log == ("Traceback", "ValueError: 3")


def test_what_is_no_program_is_told(tmp_path):
    (tmp_path / "python").write_text("no program")
    answer, _ = ask(str(tmp_path / "python"), tmp_path / "log")
    assert "cannot be started: Permission denied" in answer.reason


@pytest.mark.slow
def test_the_end_of_the_time_ends_all_processes(script, tmp_path):
    python = script(f"""echo '{{"doing": "compiling"}}'; sleep 60 & echo $! >{tmp_path}/child; sleep 60""")
    began = time.monotonic()
    answer, _ = ask(python, tmp_path / "log", ends=began + 1)
    assert time.monotonic() - began < 50  # the child, which holds stdout open, was not waited for
    assert answer.late and answer.figures is None and answer.reason == "the time of --budget ran out (compiling)"
    assert gone(int((tmp_path / "child").read_text()))


def test_caches_of_compilers_are_empty_and_other_pythons_find_their_own_packages(script, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/of/ours")
    monkeypatch.setenv("PYTHONHOME", "/of/ours")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/of/ours")
    seen = f'echo "$TRITON_CACHE_DIR:$TORCHINDUCTOR_CACHE_DIR:$PYTHONPATH:$PYTHONHOME" >{tmp_path}/seen'
    ask(script(f"{seen}; ls $PYTHONPATH >{tmp_path}/packages"), tmp_path / "log")
    triton, inductor, packages, home = (tmp_path / "seen").read_text().strip().split(":")
    assert triton != "/of/ours" and Path(triton).name == "triton" and Path(inductor).name == "inductor"
    assert packages and packages != "/of/ours" and home == "" and not Path(triton).parent.exists()
    assert (tmp_path / "packages").read_text() == "ipa_cli\n", "this very ipa, and nothing beside it"
