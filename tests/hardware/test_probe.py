"""What the machine is, found without importing torch."""

import platform

import pytest

from ipa_cli.hardware import probe


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
    seen = probe.machine().gpu
    assert seen.name == torch.cuda.get_device_name(0)
    assert seen.capability == ".".join(map(str, torch.cuda.get_device_capability(0)))
