"""Where weights live while they wait."""

import torch

from ipa_cli.hardware import devices


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
