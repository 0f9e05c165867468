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
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.task import make_request
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
    return write(folder, engine.model)


def request(engine, *configs, **changes):
    settings = replace(engine.settings, lora=configs, **changes)
    references = load_references(settings, NullReporter())
    return make_request(settings, engine.plan, references, load(configs, engine.plan, NullReporter()))


def pixels(engine, asked) -> np.ndarray:
    return np.asarray(engine.draw(asked).images[0], dtype=int)


def check_sequence(engine, files, made, least: int = 8) -> None:
    """Base, A at 0.5 and 1, B, A+B, none: all differ but first and last, which are the same to the bit.

    Pictures differ by more than `least` of 255 somewhere; `made` counts graphs, and stays as after the first picture.
    """
    a, b = LoraConfig(str(files["a"])), LoraConfig(str(files["b"]))
    half = replace(a, weight=0.5)
    pictures, before = [], None
    for chosen in ((), (half,), (a,), (b,), (a, b), ()):
        pictures.append(pixels(engine, request(engine, *chosen)))
        before = made() if before is None else before
    for number, one in enumerate(pictures[:-1]):
        for other in pictures[number + 1 : -1]:
            assert abs(one - other).max() > least
    assert (pictures[0] == pictures[-1]).all()
    # Whatever came before, a merge is the same.
    assert (pixels(engine, request(engine, a, b)) == pictures[4]).all()
    engine.forget()
    assert (pixels(engine, request(engine, half)) == pictures[1]).all()
    assert (pixels(engine, request(engine)) == pictures[0]).all()
    assert made() == before


def write(folder, model) -> dict[str, object]:
    """Two LoRAs: `a` for the UNet and all text encoders, `b` for the UNet alone."""
    encoders = dict(zip(model.architecture.text_encoders, model.text_encoders, strict=True))
    both, convolutions = {"unet": model.unet, **encoders}, ("conv1", "conv2", "conv")
    return {
        "a": loras.write(folder / "a.safetensors", loras.peft(both, (*loras.ALL, *convolutions), seed=1)),
        "b": loras.write(folder / "b.safetensors", loras.peft({"unet": model.unet}, loras.ATTENTION, 8, seed=1000)),
    }


def weights(engine) -> dict[str, torch.Tensor]:
    parts = {"unet": engine.model.unet, **dict(enumerate(engine.model.text_encoders))}
    return {f"{part}.{k}": v.clone() for part, module in parts.items() for k, v in module.state_dict().items()}


def test_each_request_has_its_loras_and_no_others(engine, files):
    before = weights(engine)
    check_sequence(engine, files, lambda: 0)
    engine.forget()
    engine.draw(request(engine))
    after = weights(engine)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_text_part_alone_changes_the_prompt_alone(engine, files):
    a = LoraConfig(str(files["a"]))
    base = pixels(engine, request(engine))
    text = pixels(engine, request(engine, replace(a, weight=0.0, text_weight=1.0)))
    unet = pixels(engine, request(engine, replace(a, text_weight=0.0)))
    both = pixels(engine, request(engine, a))
    assert abs(text - base).max() > 8 and abs(unet - base).max() > 8 and abs(both - unet).max() > 0
    assert (pixels(engine, request(engine, replace(a, weight=0.0))) == base).all()


def test_one_compiled_graph_serves_all_loras(compiled, world, monkeypatch, folder):
    """A LoRA for the model of the compiled graph: queries, keys and values are one product there."""
    from ipa_cli.cache import tempdir
    from ipa_cli.engine.store import graph_store

    settings = replace(
        BASE,
        model=str(compiled.model),
        load_format="dummy",
        cache_dir=compiled.cache,
        backend="inductor",
        compile=False,
    )
    with tempdir.temporary_folder(graph_store(settings)) as temporary, tempdir.redirected_to(temporary):
        engine = Engine.open(settings, make_plan(settings), NullReporter())
        (folder / "tiny").mkdir()
        check_sequence(engine, write(folder / "tiny", engine.model), lambda: len(engine.state.graphs), least=0)
        assert [graph["id"] for graph in engine.state.graphs] == [compiled.graph["id"]]


@pytest.mark.gpu
@pytest.mark.parametrize(("backend", "precision"), [("eager", "half"), ("inductor", "half"), ("inductor", "fp8")])
def test_a_gpu_replays_one_graph_for_all_loras(world, tmp_path, backend, precision):
    settings = replace(
        BASE,
        model="sdxl",
        load_format="dummy",
        device="cuda",
        width=256,
        height=256,
        backend=backend,
        precision=precision,
    )
    settings = replace(settings, cache_dir=tmp_path / "cache")
    engine = Engine.open(settings, make_plan(settings), NullReporter())
    made = lambda: engine._denoisers.opened[0].denoiser.captures  # noqa: E731
    try:
        check_sequence(engine, write(tmp_path, engine.model), made, least=0)
    finally:
        engine.close()


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_an_offloaded_model_takes_loras_too(files, world, offload):
    settings = replace(BASE, device="cuda", offload=offload)
    offloaded = Engine.open(settings, make_plan(settings), NullReporter())
    try:
        check_sequence(offloaded, files, lambda: 0)
    finally:
        offloaded.close()


def test_weights_that_are_offloaded_layer_by_layer_are_merged_where_they_wait(files, engine):
    """As `--offload sequential` has them, whose device is the CPU here."""
    from ipa_cli.hardware import devices
    from ipa_cli.models.lora.merging import MergedModule

    pytest.importorskip("accelerate")
    plan = make_plan(BASE)
    other = Engine.open(BASE, plan, NullReporter()).model.unet
    expected = MergedModule("unet", engine.model.unet, torch.device("cpu"))
    devices.offload_sequentially([other], torch.device("cpu"))
    merged = MergedModule("unet", other, torch.device("cpu"))
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    waiting = other.get_submodule(name)._hf_hook.weights_map["weight"]
    before = waiting.clone()
    found = load((LoraConfig(str(files["b"])),), plan, NullReporter())
    engine.draw(request(engine))
    for one in (expected, merged):
        one.merge(found)
    assert torch.equal(waiting, engine.model.unet.get_submodule(name).weight) and not torch.equal(waiting, before)
    for one in (expected, merged):
        one.merge(())
    assert torch.equal(waiting, before)


def test_loras_that_all_pictures_share_stay_and_nothing_is_kept_of_the_weights(engine, files):
    """As `ipa generate` has them, which draws nothing else."""
    other = Engine.open(engine.settings, engine.plan, NullReporter())
    a, b = LoraConfig(str(files["a"])), LoraConfig(str(files["b"]))
    asked = request(other, a)
    other.encode([asked, replace(asked, seeds=(8,))], drop_encoders=True)
    assert not other._encodings._loras._unet._base
    assert (pixels(other, asked) == pixels(engine, request(engine, a))).all()
    with pytest.raises(RuntimeError, match="merged to stay"):
        other.draw(replace(asked, loras=request(other, b).loras))
