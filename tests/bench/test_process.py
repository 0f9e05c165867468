"""Processes that measure: their messages, their failures, and that none is left running."""

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


def run(python, log, **more):
    messages = []
    result = process.run_worker(JOB, python, log, messages.append, messages.append, **more)
    return result, messages


def test_progress_and_results_are_read_and_other_output_is_ignored(script, tmp_path, monkeypatch):
    python = script(
        f"""read job; echo "$job" >{tmp_path}/job; echo "a wrapper says something"; echo 5
        echo '{{"doing": "loading"}}'; echo '{{"warning": "hot"}}'
        echo '{{"environment": {{"device": "cpu"}}}}'; echo '{{"figures": {{"e2e_s": 1.5}}}}'
        echo '{{"done": true}}'; sleep 60"""
    )
    monkeypatch.chdir(tmp_path)
    result, messages = run(python, tmp_path / "log")
    assert (result.figures, result.environment, result.reason) == ({"e2e_s": 1.5}, {"device": "cpu"}, None)
    assert messages == ["loading", "hot"] and result.warnings == ("hot",) and json.loads(Path("job").read_text()) == JOB
    assert not Path("log").exists()


def test_a_foreseen_failure_is_the_reason(script, tmp_path):
    result, _ = run(script("""echo about >&2; echo '{"failed": "no GPU", "hint": "buy one"}'"""), tmp_path / "log")
    assert (result.figures, result.reason, result.hint, result.log) == (None, "no GPU", "buy one", ("about",))


def test_figures_are_kept_when_the_process_fails_after_them(script, tmp_path):
    python = script("""echo '{"figures": {"e2e_s": 1.5}}'; seq 100 >&2; echo "CUDA error" >&2; exit 1""")
    result, _ = run(python, tmp_path / "log")
    assert (result.figures, result.reason) == ({"e2e_s": 1.5}, "the process ended with status 1: CUDA error")
    assert result.log == (*map(str, range(82, 101)), "CUDA error")


@pytest.mark.parametrize(
    ("text", "reason"),
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
def test_a_crash_is_the_reason_and_its_log_is_kept(script, tmp_path, text, reason):
    result, _ = run(script(text), tmp_path / "log")
    assert (result.figures, result.reason) == (None, reason)
    assert (tmp_path / "log").exists() == ("ValueError" in text)
    if "Traceback" in text:
        assert (tmp_path / "log").read_text() == "Traceback\nValueError: 3\n"
        assert str(tmp_path / "log") in result.hint and result.log == ("Traceback", "ValueError: 3")


def test_a_file_that_is_not_a_program_is_the_reason(tmp_path):
    (tmp_path / "python").write_text("no program")
    result, _ = run(str(tmp_path / "python"), tmp_path / "log")
    assert "cannot be started: Permission denied" in result.reason


@pytest.mark.slow
def test_a_timeout_ends_all_processes(script, tmp_path):
    python = script(f"""echo '{{"doing": "compiling"}}'; sleep 60 & echo $! >{tmp_path}/child; sleep 60""")
    began = time.monotonic()
    result, _ = run(python, tmp_path / "log", ends=began + 1)
    assert time.monotonic() - began < 50  # the child, which holds stdout open, was not waited for
    assert result.timed_out and result.figures is None and result.reason == "--budget ran out (compiling)"
    assert gone(int((tmp_path / "child").read_text()))


def test_compiler_caches_are_empty_and_other_pythons_use_their_own_packages(script, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/of/ours")
    monkeypatch.setenv("PYTHONHOME", "/of/ours")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/of/ours")
    seen = f'echo "$TRITON_CACHE_DIR:$TORCHINDUCTOR_CACHE_DIR:$PYTHONPATH:$PYTHONHOME" >{tmp_path}/seen'
    run(script(f"{seen}; ls $PYTHONPATH >{tmp_path}/packages"), tmp_path / "log")
    triton, inductor, packages, home = (tmp_path / "seen").read_text().strip().split(":")
    assert triton != "/of/ours" and Path(triton).name == "triton" and Path(inductor).name == "inductor"
    assert packages and packages != "/of/ours" and home == "" and not Path(triton).parent.exists()
    assert (tmp_path / "packages").read_text() == "ipa_cli\n", "this very ipa, and nothing beside it"
