"""Python, torch and backends, by their metadata and by running them."""

from dataclasses import replace

import pytest

from ipa_cli.backends.oneflow import backend
from ipa_cli.doctor import software
from ipa_cli.hardware.gpu import Driver
from tests.doctor.samples import GPU, WORKING


def test_torch_is_judged_by_its_build_and_the_gpus():
    cuda, cpu = software.Build(cuda="12.6"), software.Build()
    assert software.check_torch(None, cpu, Driver(), False).status == "failure"
    assert software.check_torch("2.13.0", cpu, Driver(), False).status == "ok"
    assert "CPU only" in software.check_torch("2.13.0", cpu, Driver(), False).found
    assert software.check_torch("2.13.0", cpu, Driver(gpus=(GPU,)), False).status == "warning"
    assert software.check_torch("2.13.0", cuda, Driver(gpus=(GPU,)), False).status == "ok"


def test_the_build_of_the_installed_torch_is_read_without_importing_it():
    import torch

    assert software.torch_build() == software.Build(torch.version.cuda, torch.version.hip)


def test_torch_that_cannot_be_imported_is_found_by_running_it(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = software.check_torch("2.13.0", software.Build(), Driver(), True)
    assert check.status == "failure" and "libcudart.so.12" in check.found and check.asked


@pytest.mark.slow
def test_fewer_gpus_in_torch_than_in_the_driver_is_a_failure():
    check = software.check_torch("2.13.0", software.Build(cuda="12.6"), Driver(gpus=(GPU,) * 99), True)
    assert check.status == "failure" and "of 99 GPUs" in check.found


@pytest.fixture
def any_python(monkeypatch):
    """OneFlow as if it had builds for this Python."""
    monkeypatch.setattr(backend, "REQUIREMENTS", replace(backend.REQUIREMENTS, newest_python=None))


def test_a_backend_nobody_asked_for_may_be_absent_but_not_wrong(any_python):
    absent = {**WORKING, "oneflow": None}
    assert software.check_backend("oneflow", absent, False, False).status == "skipped"
    assert software.check_backend("oneflow", absent, True, False).status == "failure"
    wrong = software.check_backend("oneflow", {**WORKING, "oneflow": "0.8.0"}, False, False)
    assert wrong.status == "failure" and not wrong.asked


def test_a_backend_with_the_right_versions_must_also_import(any_python, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert software.check_backend("oneflow", WORKING, True, False).status == "ok"
    check = software.check_backend("oneflow", WORKING, True, True)
    assert check.status == "failure" and "No module named 'oneflow'" in check.found


@pytest.mark.parametrize(
    ("device", "driver", "build", "status", "words"),
    [
        ("cpu", Driver(), software.Build(), "ok", "cpu"),
        ("cuda", Driver(gpus=(GPU,)), software.Build(cuda="12.6"), "ok", "cuda"),
        ("cuda:1", Driver(gpus=(GPU,)), software.Build(cuda="12.6"), "failure", "cuda:0"),
        ("cuda", Driver(gpus=(GPU,)), software.Build(), "failure", "without CUDA"),
        ("cuda", Driver(), software.Build(cuda="12.6"), "failure", "no GPU"),
        ("tpu", Driver(), software.Build(), "failure", "unknown"),
    ],
)
def test_the_requested_device_is_checked(device, driver, build, status, words):
    check = software.check_device(device, "2.13.0", build, driver)
    assert check.status == status and words in check.found and check.asked
