"""What the machine is, told without torch, and why a graph is of no use on it."""

import platform

import pytest

from ipa_cli.hardware import probe
from ipa_cli.hardware.probe import Gpu, Machine

H200 = Gpu("NVIDIA H200", "9.0", "580.159.04")
CODE = "c0de"
HERE = Machine(H200, ("x86_64", "avx2"), "glibc 2.39", "13.0", {"torch": "2.13.0", "triton": "3.5", "nexfort": None})
SMI = "\n".join(
    [
        "GPU-c9b1521b-693d-5461-33ef-91bcdf0b3587, 9.0, 580.159.04, NVIDIA H200",
        "GPU-aaaa0000-0000-0000-0000-000000000000, 8.9, 580.159.04, NVIDIA GeForce RTX 4090",
    ]
)


def test_this_machine():
    here = probe.machine()
    assert here.instruction_set[0] == platform.machine()
    assert here.versions["torch"]
    assert here.libc
    assert here.factors("cpu") == {"instruction set": list(here.instruction_set), "libc": here.libc}


def test_the_versions_are_those_of_torch_itself():
    import torch

    here = probe.machine()
    assert here.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert here.cuda == torch.version.cuda


@pytest.mark.gpu
def test_the_gpu_is_the_one_torch_sees():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    seen = probe.gpu()
    assert seen.name == torch.cuda.get_device_name(0)
    assert seen.capability == ".".join(map(str, torch.cuda.get_device_capability(0)))


@pytest.mark.parametrize(
    ("visible", "index", "name"),
    [
        (None, 0, "NVIDIA H200"),
        (None, 1, "NVIDIA GeForce RTX 4090"),
        (None, 2, None),
        ("1", 0, "NVIDIA GeForce RTX 4090"),
        ("1,0", 1, "NVIDIA H200"),
        ("", 0, None),
        ("-1", 0, None),
        ("7", 0, None),
        ("0,7,1", 1, None),
        ("GPU-aaaa", 0, "NVIDIA GeForce RTX 4090"),
        ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", 0, "NVIDIA H200"),
    ],
)
def test_visible_gpus(visible, index, name):
    found = probe.select(SMI, visible, index)
    assert (found.name if found else None) == name


def test_no_gpu_in_nonsense():
    assert probe.select("", None, 0) is None
    assert probe.select("NVIDIA-SMI has failed because it couldn't communicate", None, 0) is None


def test_slug():
    assert H200.slug == "nvidia-h200-sm90"
    assert probe.select(SMI, "1", 0).slug == "nvidia-geforce-rtx-4090-sm89"
