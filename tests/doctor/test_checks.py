"""Each check against the thing itself: broken compilers, full disks, silent servers, foreign folders."""

import http.server
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ipa_cli import config
from ipa_cli.backends import requirements
from ipa_cli.doctor import compiler, gpus, hub, machine, places, setup, software
from ipa_cli.doctor.check import Check
from ipa_cli.doctor.gpus import Card, Driver
from ipa_cli.doctor.report import redact, text
from ipa_cli.errors import UsageError
from ipa_cli.hardware import packages
from ipa_cli.system import child

GPU = Card("NVIDIA H200", "9.0", 140_000, 143_771)
WORKING = {
    "torch": "2.3.1+cu121",
    "diffusers": "0.30.3",
    "transformers": "4.44.2",
    "numpy": "1.26.4",
    "huggingface_hub": "0.25.2",
    "nexfort": "0.1.dev262",
    "onediff": "1.2.0",
    "onediffx": "1.2.0",
    "oneflow": "0.9.1.dev20240802+cu121",
    "triton": "2.3.1",
}


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


# --- versions --------------------------------------------------------------------------------------------------------


def test_the_set_that_was_seen_working_lacks_nothing():
    for backend in ("eager", "nexfort", "oneflow"):
        assert requirements.problem(backend, WORKING, (3, 11)) is None


@pytest.mark.parametrize(
    ("backend", "package", "version", "words"),
    [
        ("nexfort", "torch", "2.13.0+cpu", "torch==2.3.1 (2.13.0+cpu is installed)"),
        ("nexfort", "torch", "2.4.0", "torch==2.3.1 (2.4.0 is installed)"),
        ("nexfort", "nexfort", None, "nexfort==0.1.dev262 (not installed)"),
        ("nexfort", "nexfort", "0.1.dev330", "lack nexfort.inductor.codegen"),
        ("nexfort", "onediff", "1.1.0", "onediff==1.2.0 (1.1.0 is installed)"),
        ("nexfort", "diffusers", "0.31.0", "diffusers>=0.30,<0.31 (0.31.0 is installed)"),
        ("nexfort", "transformers", "4.45.1", "transformers>=4.44,<4.45 (4.45.1 is installed)"),
        ("nexfort", "numpy", "2.0.0", "numpy<2 (2.0.0 is installed)"),
        ("nexfort", "huggingface_hub", "0.26.0", "huggingface_hub<0.26 (0.26.0 is installed)"),
        ("oneflow", "oneflow", "0.9.0", "PyPI's 0.9.0 lacks oneflow.framework.args_tree"),
        ("inductor", "torch", "2.7.1", "torch>=2.8 (2.7.1 is installed)"),
        ("eager", "torch", None, "torch>=2.3 (not installed)"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_brings_it(backend, package, version, words):
    versions = {**WORKING, "torch": "2.13.0"} if backend == "inductor" else WORKING
    assert requirements.problem(backend, versions, (3, 11)) is None
    problem = requirements.problem(backend, {**versions, package: version}, (3, 11))
    assert problem is not None and words in problem.message and "\n" not in problem.message
    assert "pip install" in problem.hint


def test_everything_missing_is_named_at_once():
    problem = requirements.problem("nexfort", {}, (3, 11))
    assert all(rule.package in problem.message for rule in requirements.BACKENDS["nexfort"].rules)


def test_a_python_without_builds_is_named_before_all_else():
    problem = requirements.problem("nexfort", WORKING, (3, 12))
    assert "3.12" in problem.message and "3.11" in problem.message


def test_oneflow_names_where_its_builds_are_published():
    assert requirements.ONEFLOW_BUILDS in requirements.problem("oneflow", {}, (3, 10)).hint


RELEASE = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda numbers: ".".join(map(str, numbers)))


@given(RELEASE, RELEASE, RELEASE, st.sampled_from(["", "+cu121", "+cpu"]))
def test_versions_compare_as_pip_compares_them(version, low, high, build):
    from packaging.specifiers import SpecifierSet

    wanted = f">={low},<{high}"
    assert requirements.satisfies(version + build, wanted) == SpecifierSet(wanted).contains(version)


@given(st.text())
@example("")
@example("unknown")
def test_no_version_text_is_too_odd_to_judge(version):
    assert requirements.satisfies(version, ">=1.0") in (True, False)
    assert not requirements.satisfies(None, ">=0")


def test_a_development_version_counts_as_its_release():
    assert requirements.satisfies("0.9.1.dev20240104+cu121", ">=0.9.1")
    assert not requirements.satisfies("0.1.dev330", "==0.1.dev262")


# --- torch and backends ----------------------------------------------------------------------------------------------


def test_torch_is_judged_by_its_build_and_the_gpus():
    cuda, cpu = software.Build(cuda="12.6"), software.Build()
    assert software.check_torch(None, cpu, Driver(), False).status == "failure"
    assert software.check_torch("2.13.0", cpu, Driver(), False).status == "ok"
    assert "CPU only" in software.check_torch("2.13.0", cpu, Driver(), False).found
    assert software.check_torch("2.13.0", cpu, Driver(cards=(GPU,)), False).status == "warning"
    assert software.check_torch("2.13.0", cuda, Driver(cards=(GPU,)), False).status == "ok"


def test_the_build_of_the_installed_torch_is_read_without_importing_it():
    import torch

    assert software.torch_build() == software.Build(torch.version.cuda, torch.version.hip)


def test_torch_that_cannot_be_imported_is_found_by_running_it(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = software.check_torch("2.13.0", software.Build(), Driver(), True)
    assert check.status == "failure" and "libcudart.so.12" in check.found and check.asked


def test_fewer_gpus_in_torch_than_in_the_driver_is_a_failure():
    check = software.check_torch("2.13.0", software.Build(cuda="12.6"), Driver(cards=(GPU,) * 99), True)
    assert check.status == "failure" and "of 99 GPUs" in check.found


def test_a_backend_nobody_asked_for_may_be_absent_but_not_wrong():
    absent = {**WORKING, "oneflow": None}
    assert software.check_backend("oneflow", absent, False, False).status == "skipped"
    assert software.check_backend("oneflow", absent, True, False).status == "failure"
    wrong = software.check_backend("oneflow", {**WORKING, "oneflow": "0.9.0"}, False, False)
    assert wrong.status == "failure" and not wrong.asked


def test_a_backend_with_the_right_versions_must_also_import(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert software.check_backend("oneflow", WORKING, True, False).status == "ok"
    check = software.check_backend("oneflow", WORKING, True, True)
    assert check.status == "failure" and "No module named 'oneflow'" in check.found


@pytest.mark.parametrize(
    ("device", "driver", "build", "status", "words"),
    [
        ("cpu", Driver(), software.Build(), "ok", "cpu"),
        ("cuda", Driver(cards=(GPU,)), software.Build(cuda="12.6"), "ok", "cuda"),
        ("cuda:1", Driver(cards=(GPU,)), software.Build(cuda="12.6"), "failure", "cuda:0"),
        ("cuda", Driver(cards=(GPU,)), software.Build(), "failure", "without CUDA"),
        ("cuda", Driver(), software.Build(cuda="12.6"), "failure", "no GPU"),
        ("tpu", Driver(), software.Build(), "failure", "unknown"),
    ],
)
def test_the_device_that_was_asked_for(device, driver, build, status, words):
    check = software.check_device(device, "2.13.0", build, driver)
    assert check.status == status and words in check.found and check.asked


# --- GPUs ------------------------------------------------------------------------------------------------------------

TWO = (
    "GPU-aaaa, 9.0, 550.54.15, NVIDIA H200, 140000, 143771\n"
    "GPU-bbbb, 8.6, 550.54.15, NVIDIA A10, with a comma, [N/A], 23028\n"
)


def test_gpus_as_the_driver_tells_them():
    driver = gpus.read(TWO, None, (12, 4))
    assert driver.version == "550.54.15" and not driver.hidden
    assert driver.cards == (
        Card("NVIDIA H200", "9.0", 140000, 143771),
        Card("NVIDIA A10, with a comma", "8.6", None, 23028),
    )
    assert [check.status for check in gpus.check_cards(driver)] == ["ok", "ok"]
    assert "136.7 of 140.4 GiB free" in gpus.check_cards(driver)[0].found


def test_hidden_gpus_are_told_from_none():
    assert [card.name for card in gpus.read(TWO, "1", None).cards] == ["NVIDIA A10, with a comma"]
    hidden = gpus.read(TWO, "", None)
    assert hidden.hidden and gpus.check_cards(hidden)[0].status == "warning"
    assert gpus.check_cards(Driver())[0].status == "skipped"


def test_a_gpu_that_others_fill_is_a_warning():
    check = gpus.check_cards(Driver(cards=(Card("NVIDIA H200", "9.0", 900, 143771),)))[0]
    assert check.status == "warning" and "--offload model" in check.advice


@given(st.text() | st.lists(st.sampled_from([*TWO, "\n", ", "])).map("".join), st.none() | st.text())
def test_whatever_nvidia_smi_says_is_read(said, visible):
    driver = gpus.read(said, visible, None)
    gpus.check_cards(driver)
    gpus.check_driver(driver, "12.4", False)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('echo "NVIDIA-SMI has failed because it couldn\'t communicate with the NVIDIA driver."; exit 9', "has failed"),
        ("sleep 60", "too long"),
        ("kill -SEGV $$", "SIGSEGV"),
    ],
)
def test_a_driver_that_does_not_answer_is_a_failure_not_a_hang(tmp_path, monkeypatch, body, words):
    script(tmp_path / "nvidia-smi", body)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    check = gpus.check_driver(gpus.ask(), None, True)
    assert check.status == "failure" and words in check.found


def test_a_driver_too_old_for_torch():
    driver = Driver("535.1", (12, 2), (GPU,))
    assert gpus.check_driver(driver, "12.8", True).status == "ok"  # CUDA is compatible within a major version
    check = gpus.check_driver(driver, "13.0", True)
    assert check.status == "failure" and "CUDA 13.0" in check.found


def test_triton_is_judged_only_where_there_is_a_gpu():
    assert gpus.check_triton(Driver(), None, True, True).status == "skipped"
    assert gpus.check_triton(Driver(cards=(GPU,)), None, True, False).status == "failure"
    assert gpus.check_triton(Driver(cards=(GPU,)), "3.4.0", True, False).status == "ok"


def test_a_triton_that_cannot_run_a_kernel_is_a_failure(tmp_path, monkeypatch):
    (tmp_path / "triton.py").write_text("raise ImportError('Python.h: No such file or directory')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = gpus.check_triton(Driver(cards=(GPU,)), "3.4.0", True, True)
    assert check.status == "failure" and "Python.h" in check.found and "python3-dev" in check.advice


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="there is no GPU here")
def test_a_real_gpu_is_seen_and_runs_a_kernel():
    import torch

    driver = gpus.ask()
    assert len(driver.cards) == torch.cuda.device_count()
    assert driver.cards[0].name == torch.cuda.get_device_name(0)
    assert driver.cards[0].capability == "{}.{}".format(*torch.cuda.get_device_capability(0))
    assert gpus.check_driver(driver, torch.version.cuda, True).status == "ok"
    check = gpus.check_triton(driver, packages.installed()["triton"], True, True)
    assert check.status == "ok" and "runs" in check.found, check
    assert software.check_torch(torch.__version__, software.torch_build(), driver, True).status == "ok"


# --- the compiler ----------------------------------------------------------------------------------------------------


@pytest.fixture
def gxx(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    return shutil.which("g++") or pytest.skip("there is no g++ here to build with")


def test_a_compiler_that_works(gxx):
    quick = compiler.check(False, False, False)
    assert quick.status == "ok" and gxx in quick.found
    built = compiler.check(False, True, False)
    assert built.status == "ok" and "builds and runs" in built.found


def test_a_compiler_that_links_libstdcxx_statically_crashes_beside_torch(gxx, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(script(tmp_path / "g++", f'exec {gxx} -static-libstdc++ "$@"')))
    check = compiler.check(True, True, with_torch=True)
    if "cannot build" in check.found:
        pytest.skip("libstdc++.a is not installed here")
    assert check.status == "failure" and "statically" in check.found and "CXX=" in check.advice
    assert "crashed with SIG" in check.found  # it does crash, and not in this process


@pytest.mark.parametrize(
    ("cxx", "words"),
    [
        ("no-such-compiler", "there is no program 'no-such-compiler' (CXX)"),
        ("", "there is no program ''"),
        ("g++ -O2", "there is no program 'g++ -O2'"),
    ],
)
def test_a_compiler_that_is_not_there(monkeypatch, cxx, words):
    monkeypatch.setenv("CXX", cxx)
    check = compiler.check(True, True, False)
    assert check.status == "failure" and words in check.found and check.asked


def test_no_compiler_on_the_path(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiler.check(False, False, False).status == "failure"


VERSION = '[ "$1" = --version ] && echo fine && exit'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("exit 3", "status 3"),
        (f'{VERSION}; echo "x.cpp:1: fatal error: regex: No such file" >&2; exit 1', "regex: No such file"),
        (f"{VERSION}; kill -9 $$", "SIGKILL"),
        (f"{VERSION}; printf '\\0libstdc++.so.6' > \"$6\"", "does not run"),
    ],
)
def test_a_compiler_that_fails(tmp_path, monkeypatch, body, words):
    monkeypatch.setenv("CXX", str(script(tmp_path / "cxx", body)))
    check = compiler.check(False, True, False)
    assert check.status == "failure" and words in check.found, check


def test_a_program_without_a_header_cannot_be_started(tmp_path, monkeypatch):
    broken = tmp_path / "cxx"
    broken.write_bytes(b"\x7fELF nothing more")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert "cannot be started" in compiler.check(False, False, False).found


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mount(tmp_path):
    """Mount a small disk of its own; skips where this user may not."""
    mounted = []

    def call(*options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", ",".join(("mode=0700", *options)), "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no program to mount a disk with")
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield call
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_cache_that_is_well_is_left_as_it_was(tmp_path):
    tmp_path.chmod(0o700)
    check = places.graphs(config.Settings(cache_dir=tmp_path), False)
    assert check.status == "ok" and str(tmp_path) in check.found and not list(tmp_path.iterdir())
    later = places.graphs(config.Settings(cache_dir=tmp_path / "not" / "yet"), False)
    assert later.status == "ok" and "not there yet" in later.found and not list(tmp_path.iterdir())


def test_a_read_only_cache(mount):
    folder = mount("size=4m")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    check = places.graphs(config.Settings(cache_dir=folder), True)
    assert check.status == "failure" and "Read-only" in check.found and "--cache-dir" in check.advice and check.asked
    assert places.graphs(config.Settings(cache_dir=folder / "below"), True).status == "failure"
    reading = places.models({"HF_HUB_CACHE": str(folder)})
    assert reading.status == "warning" and "Read-only" in reading.found


@pytest.mark.skipif(os.geteuid() == 0, reason="modes do not bind root; the read-only disk above does")
def test_a_cache_without_write_permission(tmp_path):
    tmp_path.chmod(0o500)
    assert places.graphs(config.Settings(cache_dir=tmp_path), False).status == "failure"


def test_a_full_disk(mount):
    folder = mount("size=64k")
    with pytest.raises(OSError, match="No space"), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    check = places.graphs(config.Settings(cache_dir=folder), False)
    assert check.status == "failure" and "No space left" in check.found


def test_a_nearly_full_disk(mount):
    check = places.graphs(config.Settings(cache_dir=mount("size=8m")), False)
    assert check.status == "warning" and "0.0 GiB free" in check.found


def test_a_cache_that_everybody_can_write_to(tmp_path):
    tmp_path.chmod(0o777)
    check = places.graphs(config.Settings(cache_dir=tmp_path), False)
    assert check.status == "failure" and "everybody may write" in check.found and "chmod go-w" in check.advice
    assert places.models({"HF_HUB_CACHE": str(tmp_path)}).status == "warning"


def test_a_key_that_others_can_read(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "ipa").mkdir()
    (tmp_path / "ipa" / "graph-key").write_bytes(bytes(32))
    (tmp_path / "ipa" / "graph-key").chmod(0o644)
    check = places.graphs(config.Settings(cache_dir=tmp_path / "cache"), False)
    assert check.status == "failure" and "not safe from others" in check.found and "ipa cache trust" in check.advice


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_cache_of_somebody_else(tmp_path):
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 12345, -1)
    check = places.graphs(config.Settings(cache_dir=tmp_path), False)
    assert check.status == "failure" and "another user" in check.found


def test_a_file_where_the_cache_should_be(tmp_path):
    (tmp_path / "cache").write_text("")
    for path in (tmp_path / "cache", tmp_path / "cache" / "below"):
        assert places.graphs(config.Settings(cache_dir=path), False).status == "failure"
        assert places.models({"HF_HUB_CACHE": str(path)}).status == "warning"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert places.graphs(config.Settings(cache_dir=tmp_path / "link"), False).status == "failure"


def test_a_user_without_a_home_or_a_name(monkeypatch):
    import pwd

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    nobody: dict[str, str] = {}
    assert places.models(nobody).name and hub.token(nobody).status == "ok"
    assert setup.check_completion({"SHELL": "/bin/bash"}).status == "skipped"
    assert "fine" in text([Check("a", "ok", "fine")], nobody)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "~/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "/h"}, "/h/hub"),
        ({"HF_HOME": "/h", "HF_HUB_CACHE": "/c"}, "/c"),
    ],
)
def test_the_model_cache_is_where_huggingface_hub_has_it(tmp_path, environ, expected):
    here = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "XDG_"))}
    code = "from huggingface_hub import constants; import sys; sys.stdout.write(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", code], env={**here, **environ}, capture_output=True, text=True)
    assert str(places.hub_cache(environ)) == theirs.stdout == str(Path(expected).expanduser())


# --- the hub ---------------------------------------------------------------------------------------------------------


@contextmanager
def server(status: int, headers: dict[str, str] | None = None):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [200, 302, 401, 404])
def test_a_hub_that_answers_is_reached(status):
    with server(status, {"Location": "http://127.0.0.1:9/"}) as url:
        check = hub.reach({"HF_ENDPOINT": url})()
        assert check.status == "ok" and url in check.found


def test_a_hub_that_is_broken():
    with server(503) as url:
        check = hub.reach({"HF_ENDPOINT": url})()
        assert check.status == "warning" and "503" in check.found


def test_a_hub_that_refuses():
    check = hub.reach({"HF_ENDPOINT": "http://127.0.0.1:9"})()
    assert check.status == "warning" and "127.0.0.1:9" in check.found and "HF_ENDPOINT" in check.advice


def test_a_hub_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        check = hub.reach({"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"})()
    assert check.status == "warning" and check.advice


def test_a_hub_that_talks_nonsense():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as talking:
                talking.recv(1000)
                talking.sendall(b"\xff\x00 what?\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        check = hub.reach({"HF_ENDPOINT": f"http://127.0.0.1:{listening.getsockname()[1]}"})()
        thread.join()
    assert check.status == "warning" and "what?" in check.found


def test_a_hub_that_never_ends_its_answer():
    enough = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            with listening.accept()[0] as talking, suppress(OSError):
                talking.sendall(b"HTTP/1.1 200 ")
                while not enough.wait(0.5):
                    talking.sendall(b".")  # each letter comes in time, the answer does not

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        check = hub.reach({"HF_ENDPOINT": f"http://127.0.0.1:{listening.getsockname()[1]}"})()
        enough.set()
        assert check.status == "warning" and "no answer within 2 s" in check.found
    thread.join()


def test_offline_the_hub_is_not_asked():
    check = hub.reach({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"})()
    assert check.status == "skipped" and "HF_HUB_OFFLINE" in check.found


@pytest.mark.parametrize(
    "endpoint", ["file:///etc/passwd", "ftp://127.0.0.1", "huggingface.co", "http://[::1", "http://", "http://a:b"]
)
def test_an_endpoint_that_is_no_address(endpoint):
    assert hub.reach({"HF_ENDPOINT": endpoint})().status == "warning"


def test_a_password_in_the_endpoint_is_not_told():
    check = hub.reach({"HF_ENDPOINT": "http://me:hunter2@127.0.0.1:9"})()
    assert "hunter2" not in check.found + check.advice and "127.0.0.1:9" in check.found


def test_a_token_is_told_of_but_never_told(tmp_path):
    secret = "hf_thisIsNotForOthers"
    home = {"HF_HOME": str(tmp_path)}
    none = hub.token(home)
    assert none.status == "ok" and "none" in none.found
    (tmp_path / "token").write_text(secret)
    file, variable = hub.token(home), hub.token({**home, "HF_TOKEN": secret})
    assert str(tmp_path / "token") in file.found and "HF_TOKEN" in variable.found
    assert not any(secret in check.found + check.advice for check in (file, variable))
    (tmp_path / "token").write_bytes(b"\xff\xfe\x00")
    assert hub.token(home).status == "warning"


def test_offline_lasts_as_long_as_it_should(monkeypatch):
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    with hub.offline(True):
        assert os.environ["TRANSFORMERS_OFFLINE"] == "1"
    assert "TRANSFORMERS_OFFLINE" not in os.environ
    with hub.offline(False):
        assert "TRANSFORMERS_OFFLINE" not in os.environ
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    with pytest.raises(ZeroDivisionError), hub.offline(True):
        raise ZeroDivisionError
    assert os.environ["TRANSFORMERS_OFFLINE"] == "0"


# --- settings, models, completion ------------------------------------------------------------------------------------


def test_settings_are_told_with_their_sources_but_not_what_is_private(world, monkeypatch):
    (world.cwd / "ipa.toml").write_text('backend = "eager"\nprompt = "my secret wedding"')
    monkeypatch.setenv("IPA_DTYPE", "float32")
    resolved, check = setup.read_settings({"device": "cpu", "json": True})
    assert check.status == "ok" and resolved.settings.device == "cpu"
    for words in ("backend = eager", "ipa.toml", "dtype = float32 (IPA_DTYPE)", "device = cpu (--device)", "prompt ("):
        assert words in check.found
    assert "wedding" not in check.found


def test_settings_that_are_ignored_are_a_warning(world):
    (world.cwd / "ipa.toml").write_text('compile_options = "max"')
    _, check = setup.read_settings({})
    assert check.status == "warning" and "compile_options is ignored" in check.found and "trust" in check.advice


@pytest.mark.parametrize("content", ["backend = ", 'backnd = "eager"', "steps = 'many'", 'dtype = "int3"', "\xff"])
def test_a_corrupt_file_fails_its_check_alone(world, content):
    (world.cwd / "ipa.toml").write_bytes(content.encode("latin-1"))
    resolved, check = setup.read_settings({"backend": "inductor"})
    assert check.status == "failure" and "ipa.toml" in check.found + check.advice
    assert resolved.settings == config.Settings(backend="inductor")
    assert resolved.sources["backend"].kind == "flag" and resolved.sources["model"].kind == "default"


def test_a_wrong_flag_is_wrong_usage(world):
    with pytest.raises(UsageError):
        setup.read_settings({"load_format": "banana"})


def adapter(folder: Path, width: int, tokens: int, encoder: int) -> Path:
    """An adapter file of 11 layers, as the demo model has them, and an image encoder's configuration beside it."""
    import numpy
    from safetensors.numpy import save_file

    (folder / "image_encoder").mkdir(parents=True)
    (folder / "image_encoder" / "config.json").write_text(json.dumps({"projection_dim": encoder}))
    demo = setup.models.plan(config.Settings())
    layers = setup.configurations.cross_attention_layers(demo.unet_config)
    tensors = {f"ip_adapter.{2 * n + 1}.to_k_ip.weight": numpy.zeros((4, width), "float32") for n in range(layers)}
    tensors["image_proj.proj.weight"] = numpy.zeros((4 * width, tokens), "float32")
    save_file(tensors, folder / "adapter.safetensors")
    return folder / "adapter.safetensors"


def test_the_demo_model_fits_itself(world):
    check = setup.check_model(config.Settings(), False)
    assert check.status == "ok" and "they fit" in check.found


def test_an_adapter_that_does_not_fit(world, tmp_path):
    width = int(setup.models.plan(config.Settings()).unet_config["cross_attention_dim"])

    def check(name: str, **sizes: int) -> Check:
        return setup.check_model(config.Settings(ip_adapter=str(adapter(tmp_path / name, **sizes))), True)

    assert check("fits", width=width, tokens=64, encoder=64).status == "ok"
    wide = check("wide", width=768, tokens=64, encoder=64)
    assert wide.status == "failure" and "width 768" in wide.found and wide.advice and wide.asked
    encoder = check("encoder", width=width, tokens=64, encoder=1024)
    assert encoder.status == "failure" and "1024" in encoder.found and "64" in encoder.found


def test_a_broken_pickled_adapter_is_not_said_to_fit(world, tmp_path):
    adapter(tmp_path / "a", width=64, tokens=64, encoder=64).rename(tmp_path / "a" / "adapter.bin")
    check = setup.check_model(config.Settings(ip_adapter=str(tmp_path / "a" / "adapter.bin")), True)
    assert check.status == "failure" and "not a pickle of bare tensors" in check.found


def test_a_model_that_is_not_there(world):
    check = setup.check_model(config.Settings(model="./nowhere"), True)
    assert check.status == "failure" and "nowhere" in check.found


def test_completion_is_found_where_typer_puts_it(world):
    assert setup.check_completion({"SHELL": "/bin/bash"}).status == "skipped"
    assert "ipa --install-completion" in setup.check_completion({"SHELL": "/usr/bin/fish"}).advice
    assert "unknown" in setup.check_completion({"SHELL": "/bin/rc"}).found
    assert setup.check_completion({}).status == "skipped"
    from typer._completion_shared import install_bash, install_fish, install_zsh

    for shell, install in (("bash", install_bash), ("zsh", install_zsh), ("fish", install_fish)):
        path = install(prog_name="ipa", complete_var="_IPA_COMPLETE", shell=shell)
        assert path.is_relative_to(world.home)
        check = setup.check_completion({"SHELL": f"/bin/{shell}"})
        assert check.status == "ok" and str(path) in check.found


# --- the report ------------------------------------------------------------------------------------------------------

NAME = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-.", min_size=1, max_size=12)
SECRET = st.text("ABCDEFGHabcdefgh0123456789-_/+", min_size=6, max_size=40)


@given(NAME, SECRET, st.sampled_from(["HF_TOKEN", "MY_API_KEY", "db_password", "AWS_SECRET_ACCESS_KEY"]), st.data())
def test_no_home_user_or_secret_is_left(user, secret, variable, data):
    assume(user not in "<secret>~" and user.strip("."))
    home = f"/home/{user}"
    pieces = [home, f"{home}/x.txt", f"/tmp/torch_{user}", f" {secret} ", f"token={secret}", "torch 2.13", "\n", "(ok)"]
    said = " ".join(data.draw(st.lists(st.sampled_from(pieces))))
    left = redact(said, {variable: secret}, {home}, {user})
    assert secret not in left and home not in left
    assert f"_{user} " not in left + " "


def test_what_looks_like_a_secret_goes_even_when_no_variable_holds_it():
    left = redact("at http://me:hunter2@host/x with hf_abcdefghijkl and ghp_0123456789", {}, set(), set())
    assert left == "at http://host/x with <secret> and <secret>"


def test_a_home_at_the_root_does_not_eat_every_path():
    from ipa_cli.doctor.report import homes

    assert "/" not in homes({"HOME": "/"}) and "" not in homes({"HOME": ""})


def test_the_longest_home_goes_first_and_only_whole():
    left = redact("/home/me/x /home/me-too/x /data/home/me", {}, {"/home/me", "/data/home/me"}, set())
    assert left == "~/x /home/me-too/x ~"


def test_the_report_tells_advice_where_it_is_needed():
    said = text([Check("a", "ok", "fine", "hidden"), Check("b", "failure", "bad", "mend it")], {})
    assert said.startswith("```") and said.endswith("```")
    assert "hidden" not in said and "-> mend it" in said


def test_nothing_of_doctor_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    child.python("pass", 60)
    compiler.check(False, True, False)
    assert not list(tmp_path.iterdir())
    assert stat.S_ISDIR(tmp_path.stat().st_mode)


# --- the machine around ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elsewhere", "environ", "status", "told"),
    [
        (0.1, {}, "ok", "4 cores (a quota of 4.5)"),
        (1.5, {}, "warning", "other programs use 1.5"),
        (0, {"OMP_NUM_THREADS": "2"}, "ok", "OMP_NUM_THREADS=2"),
        (0, {"OMP_NUM_THREADS": "16"}, "warning", "threads wait for each other"),
        (0, {"OMP_NUM_THREADS": "4,2"}, "ok", "OMP_NUM_THREADS=4,2"),
    ],
)
def test_cores_and_who_uses_them(monkeypatch, elsewhere, environ, status, told):
    monkeypatch.setattr(machine.cores, "usable", lambda: 4)
    monkeypatch.setattr(machine.cores, "limit", lambda: 4.5)
    check = machine.check_cores(elsewhere, environ)
    assert check.status == status and told in check.found and bool(check.advice) == (status == "warning")


def test_room_for_temporary_files(tmp_path, monkeypatch, mount):
    monkeypatch.setattr("tempfile.tempdir", str(mount("size=8m")))
    assert machine.check_temporary().status == "warning" and "TMPDIR" in machine.check_temporary().advice

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    assert "No usable" in machine.check_temporary().found


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"PATH": "/bin:/usr/bin", "PYTHONPATH": "", "LD_LIBRARY_PATH": "/opt/lib"}, "whole names"),
        ({}, "whole names"),
        ({"PATH": "/bin:"}, "PATH has an empty entry: that means the working directory"),
        ({"PATH": "/bin:./tools", "LD_LIBRARY_PATH": ":/opt"}, "PATH has './tools', LD_LIBRARY_PATH has an empty"),
    ],
)
def test_lists_that_hold_the_working_directory(environ, told):
    check = machine.check_lists(environ)
    assert told in check.found and check.status == ("ok" if "whole" in told else "warning")


def test_the_environment_is_the_one_the_process_got(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ENVIRONMENT", tmp_path / "environ")
    assert machine.started_with() is os.environ
    (tmp_path / "environ").write_bytes(b"PATH=/bin:\0ODD\0A=b=c\0")
    assert machine.started_with() == {"PATH": "/bin:", "A": "b=c"}
