"""DeepCache: which steps compute everything, and that the others are what the method says, by a plain UNet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ipa_cli.backends import eager
from ipa_cli.backends.inductor.partition import partition, run_parts
from ipa_cli.config import Settings
from ipa_cli.engine.engine import Engine
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline import step_cache
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.task import make_request
from ipa_cli.result import NullReporter
from ipa_cli.unet.inputs import ControlResiduals, DeepStates

BASE = Settings(
    prompt="a star", width=64, height=64, steps=5, seed=7, device="cpu", backend="eager", warmup=0, num_images=2
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    settings = replace(BASE, cache_dir=tmp_path_factory.mktemp("cache"))
    return Engine.open(settings, make_plan(settings), NullReporter())


def request(engine, **changes):
    settings = replace(engine.settings, **changes)
    return make_request(settings, engine.plan, load_references(settings, NullReporter()))


def drawn(engine, **changes) -> np.ndarray:
    return np.stack([np.asarray(one, int) for one in engine.draw(request(engine, **changes)).images.values()])


def test_every_nth_step_and_each_of_another_kind_computes_everything():
    assert step_cache.fresh(1, "aaaa") == [True] * 4
    assert step_cache.fresh(3, "aaaaaaa") == [True, False, False, True, False, False, True]
    assert step_cache.fresh(3, "aabbbba") == [True, False, True, False, False, True, True]


def written_out(engine, every: int):
    """DeepCache with hooks on a plain UNet: the last block up is given what it was given in the step before."""
    unet, calls, kept = engine.model.unet, [0], []

    def swap(module, given):
        calls[0] += 1
        if (calls[0] - 1) % every == 0:
            kept[:] = [given[0]]
        return (kept[0], *given[1:])

    return unet.up_blocks[-1].register_forward_pre_hook(swap)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"batch_size": 2}, {"scheduler": "dpm++"}], ids=str)
def test_pictures_are_those_of_the_method_written_out_with_a_plain_unet(engine, changes):
    plain = drawn(engine, **changes)
    assert (drawn(engine, step_cache="deep:1", **changes) == plain).all()
    for every in (2, 3):
        hook = written_out(engine, every)
        try:
            expected = drawn(engine, num_images=2 if changes.get("batch_size") else 1, **changes)
        finally:
            hook.remove()
        found = drawn(engine, step_cache=f"deep:{every}", **changes)
        assert (found[: len(expected)] == expected).all() and (found != plain).any()


@pytest.mark.slow
def test_windows_of_adapters_and_guidance_begin_anew(engine):
    asked, deep = [], []
    unet = engine.model.unet

    def watch(_, given):
        asked.append(len(given[0].sample))
        deep.append(given[0].deep is not None and given[0].deep.states is None)

    hook = unet.register_forward_pre_hook(watch)
    try:
        common = {"num_images": 1, "step_cache": "deep:5", "steps": 10}
        drawn(engine, **common, ip_end=0.3)
        assert [step for step, anew in enumerate(deep) if anew] == [0, 3, 8]
        del deep[:], asked[:]
        drawn(engine, **common, guidance_start=0.2, guidance_end=0.6)
        assert [step for step, anew in enumerate(deep) if anew] == [0, 2, 6] and asked == [1] * 2 + [2] * 4 + [1] * 4
    finally:
        hook.remove()


@pytest.mark.parametrize("controlled", [False, True])
def test_compiled_parts_keep_and_take_the_same_deep_states(engine, controlled):
    from ipa_cli.backends.inductor.kernel_options import KernelOptions

    unet, inputs = engine.model.unet, engine.example_inputs(request(engine))
    parts = partition(unet, KernelOptions((), True, (), False), inputs.context)
    if controlled:
        _, skips = unet._down(unet.conv_in(inputs.sample), unet._embedding(inputs), inputs.context)
        down = tuple(torch.randn_like(skip) for skip in skips)
        inputs = replace(inputs, control=ControlResiduals(down, torch.randn(len(inputs.sample), 1, 1, 1)))

    def run(given):
        return run_parts(unet, parts, given, lambda name, tensors: parts[name](tensors))

    with torch.no_grad():
        denoiser = eager.load(unet, None, eager.options(None))
        noise, deep = denoiser(replace(inputs, deep=DeepStates()))
        again = run(replace(inputs, deep=DeepStates()))
        assert torch.equal(noise, denoiser(inputs))
        torch.testing.assert_close((noise, deep), tuple(again), rtol=1e-3, atol=1e-4)
        shallow = replace(inputs, timestep=inputs.timestep - 50, deep=DeepStates(deep))
        torch.testing.assert_close(denoiser(shallow), run(shallow), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(denoiser(replace(inputs, deep=DeepStates(deep))), noise)


@pytest.mark.slow
def test_a_step_that_is_timed_is_one_on_average(engine):
    calls = []
    hook = engine.model.unet.register_forward_pre_hook(lambda _, given: calls.append(given[0].deep.states is None))
    try:
        assert engine.time_step(request(engine, step_cache="deep:3")) > 0
    finally:
        hook.remove()
    assert calls == [True, False, False]


def test_what_cannot_keep_deep_states_is_refused(ipa):
    for value in ("deep", "deep:0", "deep:21", "deep:x", "shallow:2", "deep:²"):
        ran = ipa("generate", "--json", "--step-cache", value)
        assert ran.exit_code == 2 and "such as deep:3" in ran.error()["message"], value
    ran = ipa("generate", "--json", "--step-cache", "deep:2", "--gpus", 2, "--device", "cpu")
    assert ran.exit_code == 2 and "--gpus 2 and --step-cache" in ran.error()["message"]
