"""What stands against using a graph on this machine."""

from dataclasses import replace

from ipa_cli.engine import inventory
from ipa_cli.hardware.gpu import Gpu
from ipa_cli.hardware.probe import Machine

H200 = Gpu("NVIDIA H200", "9.0", "580.159.04")
CODE = "c0de"
HERE = Machine(H200, ("x86_64", "avx2"), "glibc 2.39", "13.0", {"torch": "2.13.0", "triton": "3.5", "nexfort": None})


def test_a_graph_of_this_machine_is_usable():
    for gpu in ("cpu", H200.slug):
        factors = {**HERE.factors(gpu), "torch": "2.13.0", "unet.sample_size": 128}
        assert inventory.differences(gpu, factors, HERE, CODE) == []


def test_reasons_are_described():
    factors = {**HERE.factors(H200.slug), "torch": "2.13.0", "triton": "3.5", "nexfort": "0.1.dev262"}
    assert inventory.differences(H200.slug, factors, HERE, CODE) == ["nexfort 0.1.dev262 → none"]
    elsewhere = replace(HERE, gpu=None, cuda=None, instruction_set=("x86_64", "avx512f"))
    assert inventory.differences(H200.slug, factors, elsewhere, CODE) == [
        "gpu nvidia-h200-sm90 → none",
        "instruction set -avx2 +avx512f",
        "nexfort 0.1.dev262 → none",
    ]
    other = replace(HERE, gpu=replace(H200, name="NVIDIA H100", driver="570.1"))
    assert inventory.differences(H200.slug, HERE.factors(H200.slug), other, CODE) == [
        "driver 580 → 570",
        "gpu nvidia-h200-sm90 → nvidia-h100-sm90",
    ]
    newer = replace(HERE, gpu=replace(H200, driver="590.1"))
    assert inventory.differences(H200.slug, HERE.factors(H200.slug), newer, CODE) == ["driver 580 → 590"]
    patched = replace(HERE, gpu=replace(H200, driver="580.200"))
    assert inventory.differences(H200.slug, HERE.factors(H200.slug), patched, CODE) == []


def test_a_cpu_graph_does_not_depend_on_the_gpu():
    assert inventory.differences("cpu", HERE.factors("cpu"), replace(HERE, gpu=None, cuda=None), CODE) == []


def test_a_graph_of_other_code_is_not_usable() -> None:
    factors = {**HERE.factors("cpu"), "code": "0ld"}
    assert inventory.differences("cpu", factors, HERE, CODE) == ["ipa's own code has changed"]
