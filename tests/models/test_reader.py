"""Weights read in segments by several threads: the same tensors, whatever the segments' size."""

import random

import pytest
import torch
from safetensors.torch import save_file

from ipa_cli.models import reader

CPU = torch.device("cpu")


def saved(path, seed=0, count=40):
    """A file of tensors of odd sizes and kinds, one of them empty; and what is in it."""
    torch.manual_seed(seed)
    some = random.Random(seed)
    kinds = (torch.float16, torch.float32, torch.bfloat16, torch.float8_e4m3fn)
    tensors = {f"t.{n}": torch.randn(some.randrange(4000)).to(some.choice(kinds)) for n in range(count)}
    tensors |= {"number": torch.tensor(3), "table": torch.randn(7, 9), "nothing": torch.empty(0)}
    save_file(tensors, path)
    return tensors


def equal(found, expected):
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype
        and found[name].shape == tensor.shape
        and torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
        for name, tensor in expected.items()
    )


@pytest.mark.parametrize("segment", [16, 1000, 4096, 1 << 24])
def test_tensors_are_those_of_the_files(tmp_path, monkeypatch, segment):
    monkeypatch.setattr(reader, "SEGMENT", segment)
    expected = {tmp_path / f"{seed}.safetensors": saved(tmp_path / f"{seed}.safetensors", seed) for seed in range(3)}
    for (_, tensors), answer in zip(expected.items(), reader.start([(p, None) for p in expected], CPU), strict=True):
        assert equal(answer.result(60), tensors)


def test_only_the_tensors_that_are_named_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "SEGMENT", 512)
    tensors = saved(tmp_path / "x.safetensors")
    names = {"t.3", "t.30", "table", "nothing"}
    [answer] = reader.start([(tmp_path / "x.safetensors", names)], CPU)
    assert equal(answer.result(60), {name: tensors[name] for name in names})
    [answer] = reader.start([(tmp_path / "x.safetensors", set())], CPU)
    assert answer.result(60) == {}


def test_a_file_that_ends_too_early_fails_alone(tmp_path):
    good, short = tmp_path / "good.safetensors", tmp_path / "short.safetensors"
    tensors = saved(good)
    short.write_bytes(good.read_bytes()[:-100])
    first, second = reader.start([(short, None), (good, None)], CPU)
    with pytest.raises(OSError, match="ends too early"):
        first.result(60)
    assert equal(second.result(60), tensors)


def test_nobody_waits_for_ever_for_threads_that_fail(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for number, path in enumerate(paths):
        saved(path, number)
    monkeypatch.setattr(reader, "_read_all", lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
    for answer in reader.start([(path, None) for path in paths], CPU):
        with pytest.raises(RuntimeError, match="no memory"):
            answer.result(60)


@pytest.mark.gpu
def test_a_gpu_gets_the_same(tmp_path):
    tensors = saved(tmp_path / "x.safetensors", count=400)
    [answer] = reader.start([(tmp_path / "x.safetensors", None)], torch.device("cuda"))
    assert equal({name: tensor.cpu() for name, tensor in answer.result(60).items()}, tensors)
