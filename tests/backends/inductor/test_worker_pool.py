"""Processes that compile: what is done once more, and what is said of one that fails."""

import itertools

import pytest

from ipa_cli.backends.inductor import worker, worker_pool
from ipa_cli.errors import IpaError

# In place of the real one: it fails as often as the job says, and notes in which process it was tried.
WORKER = """
import os, pathlib, sys
from ipa_cli.system import child

def main():
    jobs, say = child.serve()
    for job in jobs:
        tries = pathlib.Path(job["tries"])
        with tries.open("a") as file:
            file.write(f"{os.getpid()}\\n")
        if len(tries.read_text().splitlines()) <= job["failures"]:
            sys.stderr.write(job["log"])
            sys.exit(1)
        say({"compile_s": 1.0})
"""

# The end of what torch 2.11 and g++ 13 wrote, shortened.
LOG = """Traceback (most recent call last):
    raise exc.CppCompileError(cmd, output) from e
torch._inductor.exc.InductorError: CppCompileError: C++ compile error

Output:
/tmp/w/a.wrapper.cpp: In member function 'void run_impl()':
/tmp/w/a.wrapper.cpp:3100:61: error: 'int_array_10' was not declared in this scope; did you mean 'int_array_30'?
 3100 |     AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(3, int_array_10, int_array_11));
utils.h:27:8: note: in definition of macro 'AOTI_TORCH_ERROR_CODE_CHECK'
   27 |   if ((call) != AOTI_TORCH_SUCCESS) {
      |        ^~~~
"""
SAID = "error: 'int_array_10' was not declared in this scope; did you mean 'int_array_30'?"


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Two jobs, of which `up_0` fails some times: its answer, and the processes that tried each."""
    (tmp_path / "a_worker_that_fails.py").write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(worker_pool, "MODULE", "a_worker_that_fails")

    def ask(failures, log):
        jobs = [
            {"package": f"/tmp/{name}.pt2", "tries": str(tmp_path / name), "failures": count, "log": log}
            for name, count in (("up_0", failures), ("up_1", 0))
        ]
        try:
            with worker_pool.started(tmp_path, 1) as submit:
                futures = [submit(job) for job in jobs]
                assert futures[1].result(60) == {"compile_s": 1.0}  # whatever became of the other
                return futures[0].result(60), read()
        except IpaError as error:
            return error, read()

    def read():
        return [(tmp_path / name).read_text().split() for name in ("up_0", "up_1")]

    return ask


def test_what_the_compiler_fails_is_compiled_once_more_in_a_new_process(asked):
    answer, (tries, later) = asked(1, LOG)
    assert answer == {"compile_s": 1.0, "first_error": SAID}
    assert len(set(tries)) == 2 and later == tries[1:]
    assert worker_pool.again("up_0", answer) == [f"compiling up_0 failed at first ({SAID}); a new process compiled it"]


def test_what_the_compiler_fails_twice_is_a_failure_with_its_first_error(asked):
    error, (tries, later) = asked(9, LOG)
    assert error.message == f"compiling up_0 failed twice: {SAID}"
    assert "--debug" in error.hint and str(error.__cause__) == LOG
    assert len(set(tries)) == 2 and later[0] not in tries


def test_wrong_results_are_not_compiled_again(asked):
    error, (tries, _) = asked(1, "RuntimeError: the compiled code computes something else: relative error 1.0e+00\n")
    assert len(tries) == 1
    assert error.message.startswith("compiling up_0 failed: RuntimeError: the compiled code computes something else")


def test_nothing_compiled_again_is_not_warned_of(asked):
    answer, (tries, _) = asked(0, "")
    assert len(tries) == 1 and worker_pool.again("up_0", answer) == []


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("/usr/bin/ld: cannot find -lcuda\ncollect2: error: ld returned 1 exit status\n", "ld: cannot find -lcuda"),
        (
            "a.cpp:2:10: fatal error: a.h: No such file\n      |  ^~~\ncompilation terminated.",
            "error: a.h: No such file",
        ),
        ("ValueError: first\n\nptxas fatal   : out of registers\n\n", "ptxas fatal   : out of registers"),
        ("", "no message"),
    ],
)
def test_a_failure_has_the_first_error_or_the_last_line(log, said):
    assert worker_pool.failure("mid", 1, log).message == f"compiling mid failed: {said}"


def test_crash_of_the_compiled_library_names_the_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "/opt/static/g++")
    failure = worker_pool.failure("mid", -11, "")
    assert "/opt/static/g++" in failure.message and "signal 11" in failure.message
    assert "CXX=" in failure.hint


def test_a_process_that_the_system_killed_is_no_compiler_s_fault():
    failure = worker_pool.failure("mid", -9, "")
    assert "main memory" in failure.message and "CXX" not in failure.hint


def keyed_by_method(self, int_array, writeline, known_statically=False, graph=None):
    """As torch 2.11 recognizes a buffer."""
    key = int_array, id(writeline), known_statically, id(graph)
    known = self.codegen_int_array_var_cache
    if key not in known:
        known[key] = self._codegen_int_array_var_impl(int_array, writeline, known_statically)
    return known[key]


@pytest.mark.parametrize("torchs", ["2.11", "installed"])
def test_each_buffer_of_code_declares_the_arrays_it_uses(monkeypatch, torchs):
    common = pytest.importorskip("torch._inductor.codegen.common")
    wrapper_class = pytest.importorskip("torch._inductor.codegen.cpp_wrapper_cpu").CppWrapperCpu
    monkeypatch.setattr(wrapper_class, "codegen_int_array_var", wrapper_class.codegen_int_array_var)  # and put back
    if torchs == "2.11":
        monkeypatch.setattr(wrapper_class, "codegen_int_array_var", keyed_by_method)
    worker._declare_arrays_once()
    wrapper = wrapper_class.__new__(wrapper_class)
    wrapper.int_array_id, wrapper.declared_int_array_vars = itertools.count(), set()
    wrapper.codegen_int_array_var_cache = {}
    for _ in range(50):
        buffer = common.IndentedBuffer()
        names = {wrapper.codegen_int_array_var("{2, 3}", buffer.writeline, known_statically=True) for _ in range(3)}
        assert len(names) == 1
        assert buffer.getvalue().split("\n") == [f"static constexpr int64_t {names.pop()}[] = {{2, 3}};", ""]
        del buffer  # so that the next may be where it was
