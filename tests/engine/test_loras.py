"""One engine draws with any LoRAs, one request after the other, and is as if it never had any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ipa_cli.config import LoraConfig, Settings
from ipa_cli.engine.engine import Engine
from ipa_cli.models.lora.lora import load
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline.task import load_references, make_request
from ipa_cli.result import NullReporter
from tests import loras

pytestmark = pytest.mark.slow
BASE = Settings(prompt="a star", width=64, height=64, steps=2, seed=7, device="cpu", backend="eager", warmup=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loras")


@pytest.fixture(scope="module")
def engine(folder):
    settings = replace(BASE, cache_dir=folder / "cache")
    return Engine.open(settings, make_plan(settings), NullReporter())


@pytest.fixture(scope="module")
def files(engine, folder):
    """Two LoRAs: `a` for the UNet and both text encoders, `b` for the UNet alone."""
    model = engine.model
    encoders = dict(zip(model.architecture.text_encoders, model.text_encoders, strict=True))
    both = {"unet": model.unet, **encoders}
    return {
        "a": loras.write(folder / "a.safetensors", loras.peft(both, seed=1)),
        "b": loras.write(
            folder / "b.safetensors", loras.peft({"unet": model.unet}, loras.ATTENTION, rank=8, seed=1000)
        ),
    }


def request(engine, *configs, **changes):
    settings = replace(engine.settings, lora=configs, **changes)
    references = load_references(settings, NullReporter())
    return make_request(settings, engine.plan, references, load(configs, engine.plan, NullReporter()))


def pixels(engine, asked) -> np.ndarray:
    return np.asarray(engine.draw(asked).images[0], dtype=int)


def weights(engine) -> dict[str, torch.Tensor]:
    parts = {"unet": engine.model.unet, **dict(enumerate(engine.model.text_encoders))}
    return {f"{part}.{k}": v.clone() for part, module in parts.items() for k, v in module.state_dict().items()}


def test_each_request_has_its_loras_and_no_others(engine, files):
    a, b = LoraConfig(str(files["a"])), LoraConfig(str(files["b"]))
    half = replace(a, weight=0.5)
    before = weights(engine)
    pictures = [pixels(engine, request(engine, *chosen)) for chosen in ((), (half,), (a,), (b,), (a, b), ())]
    for number, one in enumerate(pictures[:-1]):
        for other in pictures[number + 1 : -1]:
            assert abs(one - other).max() > 8
    assert (pictures[0] == pictures[-1]).all()
    after = weights(engine)
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith(("0", "1")))
    # Whatever came before, a merge is the same.
    assert (pixels(engine, request(engine, a, b)) == pictures[4]).all()
    engine.forget()
    assert (pixels(engine, request(engine, half)) == pictures[1]).all()
    assert (pixels(engine, request(engine)) == pictures[0]).all()
    assert all(torch.equal(before[name], value) for name, value in weights(engine).items() if name.startswith("unet"))
