"""Which device and dtype are chosen, where weights live while they wait, and warnings of little memory."""

from types import SimpleNamespace

import pytest
import torch

from ipa_cli.errors import IpaError, UsageError
from ipa_cli.hardware import devices
from ipa_cli.result import NullReporter


@pytest.fixture
def machine(monkeypatch):
    """Lets torch see so many GPUs of NVIDIA, and one of Apple or none."""

    def sees(gpus: int, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return sees


@pytest.mark.parametrize(
    ("gpus", "mps", "named", "device"),
    [
        (2, True, "auto", "cuda"),
        (0, True, "auto", "mps"),
        (0, False, "auto", "cpu"),
        (2, False, "cpu", "cpu"),
        (2, False, "cuda:1", "cuda:1"),
        (0, True, "mps", "mps"),
    ],
)
def test_auto_takes_the_first_gpu_and_a_name_what_it_says(machine, gpus, mps, named, device):
    machine(gpus, mps)
    assert devices.pick_device(named) == torch.device(device)


@pytest.mark.parametrize(
    ("gpus", "mps", "named", "have"),
    [
        (0, False, "cuda", "cpu"),
        (2, False, "cuda:2", "cpu, cuda:0, cuda:1"),
        (0, True, "cuda:0", "cpu, mps"),
        (1, False, "mps", "cpu, cuda:0"),
        (0, False, "cpu:1", "cpu"),
        (1, True, "meta", "cpu, cuda:0, mps"),
    ],
)
def test_a_device_that_is_not_here_is_refused_with_those_that_are(machine, gpus, mps, named, have):
    machine(gpus, mps)
    with pytest.raises(IpaError, match=f"there is no device '{named}' here") as refused:
        devices.pick_device(named)
    assert refused.value.hint.endswith(f"sees: {have}")


@pytest.mark.parametrize("named", ["gpu", "cuda:x", ""])
def test_a_name_that_torch_does_not_know_is_wrong_usage(machine, named):
    machine(1, False)
    with pytest.raises(UsageError, match="unknown device"):
        devices.pick_device(named)


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda", torch.float16),
        ("auto", "mps", torch.float16),
        ("bfloat16", "cpu", torch.bfloat16),
        ("float32", "cuda", torch.float32),
    ],
)
def test_auto_is_half_precision_everywhere_but_on_a_cpu(name, device, dtype):
    assert devices.pick_dtype(name, torch.device(device)) == dtype


@pytest.mark.parametrize(("needed", "warned"), [(5 * 10**9, False), (5 * 10**9 + 1, True)])
def test_weights_that_main_memory_has_no_room_for_give_a_warning(monkeypatch, needed, warned):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=5 * 10**9))
    reporter, said = NullReporter(), []
    monkeypatch.setattr(reporter, "warn", said.append)
    devices.warn_of_little_memory(needed, reporter)
    assert [("5.0 GB are free" in text) for text in said] == [True] * warned


@pytest.mark.parametrize("fail", [lambda: torch.empty(1 << 55, dtype=torch.uint8), lambda: bytearray(1 << 62)])
def test_main_memory_that_is_not_there_is_a_foreseen_failure(fail):
    with (
        pytest.raises(devices.OutOfMemory, match="out of memory on cpu") as refused,
        devices.translate_out_of_memory(torch.device("cpu"), "none", False),
    ):
        fail()
    assert "a smaller --width" in refused.value.hint


def test_model_offload_puts_back_the_weights_it_took_and_copies_none():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    places = {name: weight.data_ptr() for name, weight in module.named_parameters()}
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with devices.on_device(torch.device("cpu"), "model", module):
        module.to(torch.float64)  # as a copy on another device is
        assert module[0].weight.data_ptr() != places["0.weight"]
    assert {name: weight.data_ptr() for name, weight in module.named_parameters()} == places
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_nothing_moves_without_offload():
    module = torch.nn.Linear(2, 3)
    with devices.on_device(torch.device("meta"), "none", module):
        assert module.weight.device.type == "cpu"


def test_model_offload_moves_to_the_device_and_back_when_the_work_fails():
    module = torch.nn.Linear(2, 3)
    kept = module.weight.clone()
    try:
        with devices.on_device(torch.device("meta"), "model", module):
            assert module.weight.device.type == "meta"
            raise KeyError("work")
    except KeyError:
        pass
    assert torch.equal(module.weight, kept)


@pytest.mark.parametrize(
    ("capability", "dtype", "warns"),
    [((7, 5), "bfloat16", True), ((7, 5), "float16", False), ((8, 0), "bfloat16", False)],
)
def test_bfloat16_is_warned_of_where_a_gpu_is_without_it(monkeypatch, capability, dtype, warns):
    said = []
    reporter = NullReporter()
    reporter.warn = said.append
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    devices.warn_of_emulation(torch.device("cuda"), getattr(torch, dtype), reporter)
    assert len(said) == warns and all(
        "slow on Tesla T4, which has no hardware for it (compute capability 7.5)" in text for text in said
    )
    devices.warn_of_emulation(torch.device("cpu"), torch.bfloat16, reporter)
    assert len(said) == warns
