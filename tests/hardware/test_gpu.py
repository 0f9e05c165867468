"""The NVIDIA driver and its GPUs: by NVML's real bindings on a library of our own, and where NVML fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ipa_cli.hardware import gpu
from ipa_cli.hardware.gpu import Driver, Gpu

H200 = Gpu("NVIDIA H200", "9.0", "580.159.04", "GPU-c9b1521b-693d-5461-33ef-91bcdf0b3587", 146 << 30, 150 << 30)
RTX = Gpu("NVIDIA GeForce RTX 4090", "8.9", "580.159.04", "GPU-aaaa0000-0000-0000-0000-000000000000")
# Just enough of NVML: two GPUs, of which the second has no memory of its own.
NVML = r"""
#include <string.h>
typedef struct { unsigned long long total, free, used; } Memory;
static const char *names[] = {"NVIDIA H200", "NVIDIA GeForce RTX 4090"};
static const char *ids[] = {"GPU-c9b1521b-693d-5461-33ef-91bcdf0b3587", "GPU-aaaa0000-0000-0000-0000-000000000000"};
int nvmlInitWithFlags(unsigned flags) { return INIT; }
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { strcpy(out, "580.159.04"); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 13000; return 0; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) { *out = (void *)(1UL + index); return 0; }
int nvmlDeviceGetName(void *gpu, char *out, unsigned size) { strcpy(out, names[(unsigned long)gpu - 1]); return 0; }
int nvmlDeviceGetUUID(void *gpu, char *out, unsigned size) { strcpy(out, ids[(unsigned long)gpu - 1]); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *gpu, int *major, int *minor) {
    *major = (unsigned long)gpu == 1 ? 9 : 8; *minor = (unsigned long)gpu == 1 ? 0 : 9; return 0;
}
int nvmlDeviceGetMemoryInfo(void *gpu, Memory *out) {
    if ((unsigned long)gpu == 2) return 3;
    out->total = 150ULL << 30; out->free = 146ULL << 30; out->used = 4ULL << 30; return 0;
}
const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : "Unknown Error"; }
"""


def asked(folder: Path, init: str, **environ: str) -> Driver:
    """What a process finds in whose way lies an NVML that answers `init` when it is initialized."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler here to build an NVML with")
    command = [compiler, "-xc", "-", "-shared", "-fPIC", f"-DINIT={init}", "-o", str(folder / gpu.LIBRARY)]
    subprocess.run(command, input=NVML, text=True, check=True)
    code = (
        "import dataclasses, json; from ipa_cli.hardware import gpu; print(json.dumps(dataclasses.asdict(gpu.ask(20))))"
    )
    inner = {**os.environ, "LD_LIBRARY_PATH": str(folder), **environ}
    done = subprocess.run([sys.executable, "-c", code], env=inner, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    gpus = tuple(Gpu(**about) for about in found.pop("gpus"))
    return Driver(**{**found, "cuda": found["cuda"] and tuple(found["cuda"])}, gpus=gpus)


@pytest.mark.slow
def test_nvml_s_answers_arrive_unchanged(tmp_path):
    assert asked(tmp_path, "0") == Driver("580.159.04", (13, 0), (H200, RTX))
    assert asked(tmp_path, "0", CUDA_VISIBLE_DEVICES="1") == Driver("580.159.04", (13, 0), (RTX,))
    assert asked(tmp_path, "0", CUDA_VISIBLE_DEVICES="") == Driver("580.159.04", (13, 0), (), hidden=True)


def test_an_error_of_nvml_is_a_driver_with_a_problem(tmp_path):
    assert asked(tmp_path, "9") == Driver(problem="NVML: Driver Not Loaded")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("import time; time.sleep(60)", "NVML does not answer: it took too long"),
        ("import os; os.kill(os.getpid(), 11)", "NVML does not answer: it crashed with SIGSEGV"),
        ("raise OSError('no such symbol')", "NVML does not answer: OSError: no such symbol"),
        ("import os; os.write(1, b'?'); os._exit(0)", "NVML's answer is not understood: '?'"),
    ],
)
def test_nvml_that_hangs_crashes_or_babbles_is_a_driver_with_a_problem(tmp_path, monkeypatch, body, problem):
    (tmp_path / "pynvml.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(gpu, "is_installed", lambda library: True)
    assert gpu.ask(1) == Driver(problem=problem)


def test_without_nvml_no_process_is_started(monkeypatch):
    monkeypatch.setattr(gpu, "LIBRARY", "libnothing-of-that-name.so.1")
    monkeypatch.setattr(gpu.child, "script", lambda *arguments: pytest.fail("a process was started"))
    assert gpu.ask(20) == Driver()


@pytest.mark.parametrize(
    ("variable", "found"),
    [
        ("1", [RTX]),
        ("1,0", [RTX, H200]),
        ("", []),
        ("-1", []),
        ("7", []),
        ("0,7,1", [H200]),
        ("GPU-aaaa", [RTX]),
        ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", [H200]),
    ],
)
def test_cuda_visible_devices_chooses_as_cuda_does(variable, found):
    assert gpu.visible([H200, RTX], variable) == found
    assert gpu.visible([], variable) == []


def test_slugs_name_the_gpu_and_its_capability():
    assert H200.slug == "nvidia-h200-sm90"
    assert RTX.slug == "nvidia-geforce-rtx-4090-sm89"


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="there is no nvidia-smi here")
def test_names_drivers_and_capabilities_are_those_of_nvidia_smi():
    """Keys of graphs are made of these: graphs of earlier versions stay valid."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version,uuid", "--format=csv,noheader"]
    printed = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    gpus = gpu.read(gpu.child.script(gpu.SCRIPT, 60).out, None).gpus
    assert [f"{found.name}, {found.capability}, {found.driver}, {found.uuid}" for found in gpus] == printed
