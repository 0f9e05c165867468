"""The driver, its GPUs and Triton."""

import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_cli.doctor import gpus, software
from ipa_cli.doctor.gpus import Card, Driver
from ipa_cli.hardware import packages
from tests.doctor.samples import GPU, script

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
