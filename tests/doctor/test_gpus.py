"""The driver, its GPUs and Triton."""

import shutil
from dataclasses import replace

import pytest

from ipa_cli.doctor import gpus, software
from ipa_cli.hardware import gpu, packages
from ipa_cli.hardware.gpu import Driver, Gpu
from tests.doctor.samples import GPU


def test_each_gpu_is_listed_with_its_memory():
    shared = Gpu("NVIDIA GB10", "12.1", "550.54.15")  # its memory is the main memory
    checks = gpus.check_gpus(Driver("550.54.15", (12, 4), (GPU, shared)))
    assert [check.status for check in checks] == ["ok", "ok"]
    assert checks[0].found == "NVIDIA H200, 136.7 of 140.4 GiB free, compute capability 9.0"
    assert checks[1].found == "NVIDIA GB10, compute capability 12.1"


def test_hidden_gpus_differ_from_none():
    assert gpus.check_gpus(Driver("550.54.15", hidden=True))[0].status == "warning"
    assert gpus.check_gpus(Driver())[0].status == "skipped"


def test_a_gpu_that_others_fill_is_a_warning():
    check = gpus.check_gpus(Driver(gpus=(replace(GPU, free=900 << 20),)))[0]
    assert check.status == "warning" and "--offload model" in check.advice


def test_bfloat16_on_a_gpu_without_it_is_a_warning():
    turing = Driver("550", gpus=(replace(GPU, name="Tesla T4", capability="7.5"), GPU))
    assert [check.status for check in gpus.check_gpus(turing, "bfloat16")] == ["warning", "ok"]
    assert "float16" in gpus.check_gpus(turing, "bfloat16")[0].advice
    assert gpus.check_gpus(turing, "auto")[0].status == "ok"


def test_a_driver_that_does_not_answer_is_a_failure():
    check = gpus.check_driver(Driver(problem="NVML: Driver Not Loaded"), None, True)
    assert check.status == "failure" and check.found == "NVML: Driver Not Loaded" and check.advice


def test_a_machine_without_a_driver_is_a_failure_only_when_a_gpu_was_asked_for(monkeypatch):
    monkeypatch.setattr(gpus, "LIBCUDA", "libnothing-of-that-name.so.1")
    assert gpus.check_driver(Driver(), None, False).status == "skipped"
    assert gpus.check_driver(Driver(), None, True).status == "failure"


def test_a_container_that_has_cuda_without_nvml_is_a_failure(monkeypatch):
    monkeypatch.setattr(gpus, "LIBCUDA", "libc.so.6")  # any library that is there
    check = gpus.check_driver(Driver(), "12.4", False)
    assert check.status == "failure" and "libnvidia-ml.so.1 is missing" in check.found
    assert "NVIDIA_DRIVER_CAPABILITIES" in check.advice


def test_a_driver_too_old_for_torch():
    driver = Driver("535.1", (12, 2), (GPU,))
    assert gpus.check_driver(driver, "12.8", True).status == "ok"  # CUDA is compatible within a major version
    check = gpus.check_driver(driver, "13.0", True)
    assert check.status == "failure" and "CUDA 13.0" in check.found


def test_triton_is_judged_only_where_there_is_a_gpu():
    assert gpus.check_triton(Driver(), None, True, True).status == "skipped"
    assert gpus.check_triton(Driver(gpus=(GPU,)), None, True, False).status == "failure"
    assert gpus.check_triton(Driver(gpus=(GPU,)), "3.4.0", True, False).status == "ok"


def test_a_triton_that_cannot_run_a_kernel_is_a_failure(tmp_path, monkeypatch):
    (tmp_path / "triton.py").write_text("raise ImportError('Python.h: No such file or directory')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = gpus.check_triton(Driver(gpus=(GPU,)), "3.4.0", True, True)
    assert check.status == "failure" and "Python.h" in check.found and "python3-dev" in check.advice


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="there is no GPU here")
def test_a_real_gpu_is_seen_and_runs_a_kernel():
    import torch

    driver = gpu.ask(60)
    assert len(driver.gpus) == torch.cuda.device_count()
    assert driver.gpus[0].name == torch.cuda.get_device_name(0)
    assert driver.gpus[0].capability == "{}.{}".format(*torch.cuda.get_device_capability(0))
    assert gpus.check_driver(driver, torch.version.cuda, True).status == "ok"
    check = gpus.check_triton(driver, packages.installed()["triton"], True, True)
    assert check.status == "ok" and "runs" in check.found, check
    assert software.check_torch(torch.__version__, software.torch_build(), driver, True).status == "ok"
