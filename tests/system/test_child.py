"""Other programs: where they start, what they can see of the working directory, and that none is left behind."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ipa_cli.system import child
from tests.test_layering import MODULES, calls, named, nodes

pytestmark = pytest.mark.slow

# Modules by which Python starts programs, and the functions of os that do.
STARTING = {"subprocess", "multiprocessing", "pty", "concurrent.futures.ProcessPoolExecutor", "asyncio.subprocess"}
OF_OS = ("exec", "spawn", "posix_spawn", "fork", "system", "popen", "startfile")
# What a repository may hold that Python, torch or a compiler would like to import.
PLANTED = (
    "json.py",
    "torch.py",
    "pynvml.py",
    "triton.py",
    "sitecustomize.py",
    "typing.py",
    "subprocess.py",
    "ipa_cli/__init__.py",
)


@pytest.fixture
def hostile(world):
    """A working directory whose modules and programs leave a mark when they run."""
    mark = world.home / "mark"
    for name in PLANTED:
        path = world.cwd / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(mark)!r}, 'a').write({name!r} + '\\n')\nraise SystemExit(9)\n")
    for name in ("g++", "nvidia-smi", "python", "ninja", "ld"):
        path = world.cwd / name
        path.write_text(f"#!/bin/sh\necho {name} >>{mark}\nexit 9\n")
        path.chmod(0o755)

    def ran() -> str:
        return mark.read_text() if mark.exists() else ""

    return ran


def starts(module: str) -> set[str]:
    """What `module` uses to start programs."""
    found = set()
    for node in nodes(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute):
            found.add(named(node))
    return {
        name
        for name in found
        if name in STARTING or (name.startswith("os.") and name.removeprefix("os.").startswith(OF_OS))
    }


def test_one_module_alone_starts_programs():
    # Others name the type of what it returns.
    typed = {"backends/inductor/worker_pool", "batch/devices", "bench/process"}
    assert {module for module in MODULES if starts(module)} - typed == {"system/child"}
    for module in typed:
        assert not {name for name in calls(module) if name.startswith("subprocess.")}


def test_a_python_of_ours_sees_nothing_of_the_working_directory(hostile, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f":.:{os.environ.get('PYTHONPATH', '')}:")
    monkeypatch.setattr(sys, "path", ["", ".", str(Path.cwd()), *sys.path])
    assert child.python("import json, typing, os; assert not os.listdir()", 60).code == 0
    with (tmp_path / "log").open("w") as log:
        process = child.start("ipa_cli.backends.inductor.worker", tmp_path, log)
        try:
            # A job that it cannot do: everything that compiling takes is imported before.
            process.stdin.write('{"strange": 1}\n')
            process.stdin.flush()
            assert process.stdout.readline() == ""
        finally:
            child.end(process)
    assert "compile_region() got an unexpected keyword" in (tmp_path / "log").read_text()
    assert not hostile()


@pytest.mark.parametrize("command", [("doctor",), ("generate", "--steps", "1", "--warmup", "0", "-o", "/dev/null/x")])
def test_the_installed_program_sees_nothing_of_the_working_directory(hostile, world, tmp_path, command):
    script = tmp_path / "ipa"  # as pip writes it
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom ipa_cli.__main__ import main\nsys.exit(main())\n")
    script.chmod(0o755)
    path = os.pathsep.join(child.module_path())
    environ = {**world.environ, "PATH": f".:{world.environ['PATH']}:", "PYTHONPATH": path}
    done = subprocess.run([script, *command], capture_output=True, text=True, env=environ)
    assert done.returncode in (0, 1) and not hostile(), done.stderr


@pytest.mark.parametrize("here", ["", ".", "bin/..", "{cwd}/.:", None])
def test_a_program_is_not_found_in_the_working_directory(hostile, world, monkeypatch, here):
    if here is None:
        monkeypatch.setenv("PATH", "")
    else:
        monkeypatch.setenv("PATH", f"{here}:/usr/bin:/bin" if "{" not in here else "/usr/bin:/bin")
    assert child.find("nvidia-smi") != str(world.cwd / "nvidia-smi") and child.find("ninja") != "ninja"
    assert child.run(["sh", "-c", "nvidia-smi; g++ --version; ninja; true"], 20).code == 0
    assert not hostile()


def test_only_whole_names_of_folders_are_handed_on(monkeypatch):
    for name in child.SEARCHED:
        monkeypatch.setenv(name, ":/opt/a:.:b/c::/opt/d:")
    found = child.environment(EXTRA="1")
    assert {found[name] for name in child.SEARCHED} == {"/opt/a:/opt/d"}
    assert (found["EXTRA"], found["PYTHONSAFEPATH"]) == ("1", "1")
    monkeypatch.setenv("LD_LIBRARY_PATH", ":.")
    assert "LD_LIBRARY_PATH" not in child.environment()


def test_the_program_itself_forgets_where_it_runs(world, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(sys, "path", ["", str(world.cwd), *sys.path])
    os.environ.update(PATH=".:/usr/bin::/bin", PYTHONPATH=":", OTHER=":")
    child.shield()
    assert (os.environ["PATH"], os.environ["OTHER"], os.environ["PYTHONSAFEPATH"]) == ("/usr/bin:/bin", ":", "1")
    assert "PYTHONPATH" not in os.environ and not {"", str(world.cwd)} & set(sys.path)


def test_a_compiler_named_by_a_relative_path_is_the_users_own(world, monkeypatch):
    (world.cwd / "mine").write_text("#!/bin/sh\necho mine\n")
    (world.cwd / "mine").chmod(0o755)
    monkeypatch.setenv("CXX", "./mine")
    assert child.environment()["CXX"] == str(world.cwd / "mine")
    assert child.run(["sh", "-c", '"$CXX"'], 20).out == "mine\n"


def test_children_start_in_a_deleted_working_directory(world):
    world.cwd.rmdir()
    assert child.python("import json", 60).code == 0 and child.module_path()


def test_the_working_directory_counts_where_pythonpath_names_it(world, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(world.cwd), *sys.path])
    assert str(world.cwd) not in child.module_path()
    monkeypatch.setenv("PYTHONPATH", str(world.cwd))
    assert child.module_path()[0] == str(world.cwd)
    assert str(Path(child.__file__).parents[2]) in child.module_path()


def test_a_child_out_of_time_takes_its_own_children_along(tmp_path):
    marker = tmp_path / "pid"
    ended = child.run(["sh", "-c", f"sleep 300 & echo $! > {marker}; wait"], 1)
    assert ended.code is None and "too long" in ended.why
    assert gone(int(marker.read_text()))


SERVING = """
import os, subprocess, time
from ipa_cli.system import child
def main():
    jobs, say = child.serve()
    slow = subprocess.Popen(["sleep", "300"])
    for job in jobs:
        say([job, os.getpid(), slow.pid, os.listdir(), os.read(0, 1).decode()])
        os.write(1, b"a library prints")
"""
PARENT = """
import sys, time
from pathlib import Path
from ipa_cli.system import child
process = child.start("serving", Path(sys.argv[1]), open(sys.argv[1] + "/log", "w"))
for job in ("1", "[2]"):
    process.stdin.write(job + "\\n")
    process.stdin.flush()
    print(process.stdout.readline(), end="", flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_server_and_all_it_started_end_with_their_parent(tmp_path, by):
    (tmp_path / "serving.py").write_text(SERVING)
    path = os.pathsep.join([str(tmp_path), *child.module_path()])
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        # A run under nohup ignores SIGHUP, and its children would inherit that.
        preexec_fn=lambda: by == signal.SIGKILL or signal.signal(by, signal.SIG_DFL),
    ) as parent:
        answers = [json.loads(parent.stdout.readline()) for _ in range(2)]
        parent.send_signal(by)
    assert [answer[0] for answer in answers] == [1, [2]]
    assert all(answer[3:] == [[], ""] for answer in answers), "an empty folder, and nothing on stdin"
    assert all(gone(pid) for answer in answers for pid in answer[1:3])


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False
