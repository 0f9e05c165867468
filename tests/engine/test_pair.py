"""Halves of guidance in two processes: the same pictures, what travels, and what happens when the other one is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from ipa_cli.backends.inductor import partition
from ipa_cli.config import Settings
from ipa_cli.engine import graphs
from ipa_cli.engine.engine import Engine
from ipa_cli.engine.pair import link, process
from ipa_cli.engine.pair import pair as pairs
from ipa_cli.errors import IpaError
from ipa_cli.images import reference
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline.references import InMemory, load_references
from ipa_cli.pipeline.task import make_request
from ipa_cli.result import NullReporter
from ipa_cli.unet.inputs import AddedConditions, Context, ControlResiduals, UNetInputs, halves, tensors

pytestmark = pytest.mark.slow
BASE = Settings(prompt="a star", width=64, height=64, steps=2, seed=7, device="cpu", backend="eager", warmup=0)


def opened(folder, **changes) -> Engine:
    settings = replace(BASE, cache_dir=folder, **changes)
    return Engine.open(settings, make_plan(settings), NullReporter())


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with closing(opened(tmp_path_factory.mktemp("cache"), gpus=2)) as engine:
        yield engine


def request(engine, picture=None, **changes):
    loaded = {} if picture is None else {("picture", False): reference.of_image(picture)}
    settings = replace(engine.settings, image=tuple(name for name, _ in loaded), **changes)
    loaded = load_references(settings, NullReporter(), InMemory(loaded))
    return make_request(settings, engine.plan, loaded)


def pixels(engine, asked) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=int) for image in engine.draw(asked).images.values()])


def batches(engine) -> list[int]:
    """Sizes of the calls of this process's UNet, as they come."""
    found: list[int] = []
    engine.model.unet.register_forward_pre_hook(lambda _, args: found.append(args[0].sample.shape[0]))
    return found


def worker(engine) -> psutil.Process:
    return psutil.Process(engine._pair.process._process.pid)


def test_pictures_are_those_of_one_gpu_whatever_changes_between_them(one, two):
    calls = batches(two)
    for changes in (
        {},
        {"scale": 0.1},
        {"prompt": "a circle", "negative_prompt": "grey"},
        {"num_images": 3, "batch_size": 2},
        {"ip_end": 0.5, "guidance_rescale": 0.7},
        {"picture": Image.new("RGB", (48, 48), "red")},
    ):
        before = len(calls)
        expected, found = (pixels(engine, request(engine, **changes)) for engine in (one, two))
        assert abs(expected - found).max() <= 1, changes
        pictures = changes.get("batch_size", 1)
        assert calls[before:] == [pictures] * (4 if pictures > 1 else 2)  # half of each call


def test_steps_without_guidance_are_this_process_s_own(one, two, monkeypatch):
    sent = []
    call = pairs.Pair.call
    monkeypatch.setattr(pairs.Pair, "call", lambda *of: sent.append(1) or call(*of))
    in_part = {"steps": 4, "guidance_start": 0.25, "guidance_end": 0.75}
    expected, found = (pixels(engine, request(engine, **in_part)) for engine in (one, two))
    assert abs(expected - found).max() <= 1 and len(sent) == 2
    ready = two.prepare(request(two, **in_part))
    assert ready.unguided is not None and two.time_step(request(two, **in_part)) > 0
    del sent[:]
    without = {"guidance_scale": 1.0}
    assert (pixels(one, request(one, **without)) == pixels(two, request(two, **without))).all() and not sent


def test_weights_that_change_in_place_follow(one, two):
    before = pixels(two, request(two))
    weights = [engine.model.unet.conv_out.weight for engine in (one, two)]
    kept = weights[0].clone()
    for weight in weights:
        weight.mul_(0.5)
    expected, found = (pixels(engine, request(engine)) for engine in (one, two))
    assert abs(expected - found).max() <= 1 and (found != before).any()
    for weight in weights:
        weight.copy_(kept)
    assert abs(pixels(two, request(two)) - before).max() <= 1


def test_weights_that_a_graph_has_put_together_follow_too(one, two, monkeypatch):
    def attention(engine):
        return engine.model.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1")

    def prepare(network, *given, **more):
        found = prepared(network, *given, **more)
        partition.concat_parameters([getattr(attention(two), name) for name in ("to_q", "to_k", "to_v")], "weight")
        return found

    prepared = graphs.prepare_asked
    assert abs(pixels(two, request(two)) - pixels(one, request(one))).max() <= 1
    with monkeypatch.context() as opening:
        opening.setattr(graphs, "prepare_asked", prepare)
        two.draw(request(two, width=96, guidance_scale=1.0))  # one that only this process opens
    assert attention(two).to_q.weight.untyped_storage().size() == 3 * attention(two).to_q.weight.nbytes
    before, kept = pixels(two, request(two)), attention(one).to_v.weight.clone()
    for engine in (one, two):
        attention(engine).to_v.weight.mul_(20)
    expected, found = (pixels(engine, request(engine)) for engine in (one, two))
    assert abs(expected - found).max() <= 1 and (found != before).any()
    for engine in (one, two):
        attention(engine).to_v.weight.copy_(kept)


def test_a_context_is_what_lasts_and_the_scale():
    assert set(Context._fields) == {*pairs.LASTING, "scale"}


def inputs() -> UNetInputs:
    context = Context(
        [torch.randn(2, 4, 2, 3, 5)], [[torch.randn(2, 4, 2, 1, 5)]], torch.rand(1, 1), [[torch.ones(1, 1, 6, 1)]]
    )._replace(regions=[[torch.randn(2, 4, 2, 3, 5)]], share=[[torch.ones(1, 1, 6, 1)]] * 2)
    added = AddedConditions(torch.randn(4, 3).half(), torch.ones(4, 6))
    control = ControlResiduals((torch.randn(4, 2, 3, 3), torch.randn(4, 2, 1, 1)), torch.randn(4, 2, 1, 1))
    return UNetInputs(torch.randn(4, 4, 3, 3), torch.tensor(5.0), context, added, control)


def test_halves_divide_what_belongs_to_pictures_and_share_the_rest():
    whole = inputs()
    first, second = halves(whole)
    assert torch.equal(torch.cat([first.sample, second.sample]), whole.sample)
    assert torch.equal(torch.cat([first.context.text[0], second.context.text[0]], 1), whole.context.text[0])
    assert torch.equal(second.context.image[0][0], whole.context.image[0][0][:, 2:])
    assert first.context.scale is second.context.scale is whole.context.scale
    assert torch.equal(first.context.regions[0][0], whole.context.regions[0][0][:, :2])
    assert (
        first.context.share is whole.context.share
        and first.context.mask is whole.context.mask
        and first.timestep is whole.timestep
    )
    assert torch.equal(second.control.down[1], whole.control.down[1][2:])
    assert all(tensor.is_contiguous() for tensor in tensors(second))
    bare = replace(whole, added=None, control=None)
    assert halves(bare)[0].added is None and halves(bare)[1].control is None


def test_inputs_are_rebuilt_from_their_description_and_tensors():
    whole, found = inputs(), []
    description = link.described(whole, found)
    assert link.kinds(description) == [link.kind(tensor) for tensor in found] and len(found) == len(tensors(whole))
    again = link.rebuilt(description, iter(found))
    assert type(again.control.down) is tuple and type(again.context) is Context
    assert all(a is b for a, b in zip(tensors(again), tensors(whole), strict=True))
    assert link.rebuilt(link.described(replace(whole, added=None), []), iter(found)).added is None


@pytest.mark.campaign
def test_a_worker_that_dies_or_hangs_is_one_error_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(process.STEPS, "cpu", 2.0)
    monkeypatch.setattr(process, "PATIENCE", 1.0)
    for number, words in ((signal.SIGKILL, "has ended: it crashed with SIGKILL"), (signal.SIGSTOP, "does not answer")):
        with closing(opened(tmp_path, gpus=2)) as engine:
            asked = request(engine)
            engine.draw(asked)
            other = worker(engine)
            other.send_signal(number)
            began = time.monotonic()
            with pytest.raises(IpaError, match=words) as failed:
                engine.draw(asked)
            assert time.monotonic() - began < 15 and "--gpus" in failed.value.hint
            other.wait(10)
            with pytest.raises(IpaError, match=words):  # it stays failed
                engine.draw(asked)


@pytest.mark.campaign
def test_a_long_drawing_that_needs_no_call_is_no_hang(two, monkeypatch):
    monkeypatch.setattr(two._pair.process, "_seconds", 0.5)
    monkeypatch.setattr(process, "PATIENCE", 0.5)
    with two._pair.process.watched():
        time.sleep(2.5)
    assert two._pair.process._answered == two._pair.process._asked >= 2
    two.draw(request(two))


@pytest.mark.campaign
def test_what_fails_in_the_worker_is_said_here(tmp_path):
    with closing(opened(tmp_path, gpus=2)) as engine:
        engine.prepare(request(engine))
        engine._pair.process.tell({"weights": ["no such weight"]})
        with pytest.raises(IpaError, match="KeyError: 'no such weight'"):
            engine.draw(request(engine))


@pytest.mark.campaign
def test_a_call_that_is_broken_off_here_is_not_continued(tmp_path, monkeypatch):
    with closing(opened(tmp_path, gpus=2)) as engine:
        asked = request(engine)
        engine.draw(asked)
        hook = engine.model.unet.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.draw(asked)
        hook.remove()
        with pytest.raises(IpaError, match="was broken off"):
            engine.draw(asked)


@pytest.mark.campaign
def test_the_worker_ends_with_ipa(world):
    command = [sys.executable, "-m", "ipa_cli", "generate", "--device", "cpu", "--gpus", "2", "--steps", "1000"]
    process = subprocess.Popen(command, env=world.environ, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        for line in process.stderr:
            if b"warming up" in line:
                break
        (other,) = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
        other.wait(10)
    finally:
        process.kill()


@pytest.mark.gpu
def test_two_gpus_draw_what_one_does_and_a_killed_process_is_one_error(tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    on_gpus = {"device": "cuda", "dtype": "float32", "steps": 6}
    alone = opened(tmp_path, **on_gpus)
    with closing(opened(tmp_path, gpus=2, **on_gpus)) as engine:
        for changes in (
            {},
            {"step_cache": "forecast:2"},
            {"guidance_end": 0.5, "step_cache": "forecast:2"},
            {"num_images": 2, "batch_size": 2},
        ):
            expected, found = (pixels(each, request(each, **changes)) for each in (alone, engine))
            apart = abs(expected - found)
            assert apart.mean() < 0.5 and apart.max() <= 8, changes  # convolutions are in TF32
            assert (pixels(engine, request(engine, **changes)) == found).all(), changes
        worker(engine).kill()
        began = time.monotonic()
        with pytest.raises(IpaError, match="has ended: it crashed with SIGKILL"):
            engine.draw(request(engine))
        assert time.monotonic() - began < 15


def test_what_cannot_draw_on_two_gpus_is_refused_before_weights_are_read(ipa, monkeypatch):
    def refused(*arguments) -> tuple[int, str]:
        ran = ipa("generate", "--json", *arguments)
        return ran.exit_code, ran.error()["message"]

    assert refused("--gpus", 3, "--device", "cpu") == (2, "--gpus 3: expected 1 or 2, since guidance has two halves")
    code, message = refused("--gpus", 2, "--device", "cpu", "--offload", "model")
    assert code == 2 and message.startswith("--gpus 2 needs the weights to stay")
    if not torch.cuda.is_available():
        assert refused("--gpus", 2) == (1, "--gpus 2 needs two NVIDIA GPUs, and this would run on cpu")
    monkeypatch.setattr("ipa_cli.serve.run.pick_device", lambda name: None)
    ran = ipa("serve", "--json", "--gpus", 2, "--devices", "cpu,cpu")
    assert ran.exit_code == 2 and "several --devices" in ran.error()["message"]
