"""Step caches: which steps compute everything, and that the others are what the method says, by a plain UNet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ipa_cli.backends import eager
from ipa_cli.backends.inductor.partition import partition, run_parts
from ipa_cli.config import Settings
from ipa_cli.config.step_cache import StepCache
from ipa_cli.engine import schedules
from ipa_cli.engine.engine import Engine
from ipa_cli.errors import UsageError
from ipa_cli.models import schedulers
from ipa_cli.models.plan import make_plan
from ipa_cli.models.schedule import Schedule
from ipa_cli.models.schedulers import Sampling
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
    def computed(*given, **more):
        return "".join("-x"[one] for one in step_cache.computed(*given, **more))

    assert computed(1, "aaaa", first=1) == "xxxx"
    assert computed(3, "aaaaaaa", first=1) == "x--x--x"
    assert computed(3, "aabbbba", first=1) == "x-x--xx"
    assert computed(3, "aaaaaaaab", first=2) == "xx--x--xx"
    assert computed(2, "abbbbb", first=2) == "xxx-x-"


@pytest.mark.parametrize(
    ("cache", "more", "saved", "said"),
    [
        ("forecast:3", {}, 6, "10 steps (6 of them forecast)"),
        ("deep:2", {}, 5, "10 steps (5 of them with the deep part of the UNet kept)"),
        ("deep:2", {"strength": 0.5, "init-image": "a.png"}, 2, "5 steps (2 of them with"),
        ("deep:2", {"hires": 1.5, "hires-strength": 0.5}, 7, "15 steps (7 of them with"),
        ("none", {}, 0, "it/s, 10 steps in"),
    ],
)
@pytest.mark.slow
def test_the_summary_and_json_name_steps_that_cost_less(ipa, cache, more, saved, said):
    Image.new("RGB", (64, 64), "red").save("a.png")
    flags = ("--size", "64x64", "--steps", 10, "--warmup", 0, "--backend", "eager", "--step-cache", cache, "--force")
    flags = (*flags, *(word for name, value in more.items() for word in (f"--{name}", value)))
    assert said in ipa("generate", *flags).stdout
    data = ipa("generate", *flags, "--json").data()
    assert (data["step_cache"], data["steps_saved"]) == (cache, saved)


def written_out(engine, every: int):
    """DeepCache with hooks on a plain UNet: the last block up is given what it was given in the step before."""
    unet, calls, kept = engine.model.unet, [0], []

    def swap(module, given):
        calls[0] += 1
        if (calls[0] - 1) % every == 0:
            kept[:] = [given[0]]
        return (kept[0], *given[1:])

    return unet.up_blocks[-1].register_forward_pre_hook(swap)


def forecast_written_out(engine, every: int, steps: int):
    """A plain UNet whose output between is replaced by the line through the last two that it gave."""
    points: list[tuple[int, torch.Tensor]] = []
    calls = [0]

    def swap(module, given, noise):
        step = calls[0] % steps
        calls[0] += 1
        if step == 0 or (step - 1) % every == 0:
            points.append((step, noise))
            return noise
        (before, earlier), (at, last) = points[-2:]
        return last + (step - at) / (at - before) * (last - earlier)

    return engine.model.unet.register_forward_hook(swap)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"batch_size": 2}, {"scheduler": "dpm++"}, {"guidance_scale": 1.0}], ids=str)
def test_forecast_pictures_are_those_of_the_method_written_out_with_a_plain_unet(engine, changes):
    changes = {"steps": 5, "num_images": 2 if "batch_size" in changes else 1, **changes}
    plain = drawn(engine, **changes)
    assert (drawn(engine, step_cache="forecast:1", **changes) == plain).all()
    for every in (2, 3):
        hook = forecast_written_out(engine, every, steps=5)
        try:
            expected = drawn(engine, **changes)
        finally:
            hook.remove()
        found = drawn(engine, step_cache=f"forecast:{every}", **changes)
        assert (found == expected).all() and (found != plain).any()


@pytest.mark.slow
def test_pictures_of_a_batch_are_forecast_each_on_its_own(engine):
    """Apart from the rounding of larger products, a batch gives what its pictures give alone."""
    together = drawn(engine, batch_size=2, step_cache="forecast:2")
    alone = drawn(engine, step_cache="forecast:2")
    assert abs(together - alone).max() <= 1


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
        assert request(engine, **common, ip_end=0.3).steps_saved == 7
        del deep[:], asked[:]
        drawn(engine, **common, guidance_start=0.2, guidance_end=0.6)
        assert [step for step, anew in enumerate(deep) if anew] == [0, 2, 6] and asked == [1] * 2 + [2] * 4 + [1] * 4
    finally:
        hook.remove()


@pytest.mark.slow
def test_forecasts_begin_anew_with_two_calls_where_windows_of_adapters_and_guidance_do(engine):
    called: list[int] = []
    hook = engine.model.unet.register_forward_pre_hook(lambda _, given: called.append(len(given[0].sample)))
    try:
        common = {"num_images": 1, "step_cache": "forecast:5", "steps": 10}
        drawn(engine, **common)
        assert called == [2] * 3  # steps 0, 1 and 6
        assert request(engine, **common).steps_saved == 7
        del called[:]
        drawn(engine, **common, ip_end=0.3)
        assert called == [2] * 5  # 0, 1; 3, 4, 9
        assert request(engine, **common, ip_end=0.3).steps_saved == 5
        del called[:]
        drawn(engine, **common, guidance_start=0.2, guidance_end=0.6)
        assert called == [1] * 2 + [2] * 2 + [1] * 2  # 0, 1; 2, 3; 6, 7
        assert request(engine, **common, guidance_start=0.2, guidance_end=0.6).steps_saved == 4
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


@pytest.mark.slow
def test_of_forecasts_one_call_is_timed(engine):
    calls = []
    hook = engine.model.unet.register_forward_pre_hook(lambda _, given: calls.append(given[0].deep))
    try:
        assert engine.time_step(request(engine, step_cache="forecast:3")) > 0
    finally:
        hook.remove()
    assert calls == [None]


@pytest.mark.parametrize(
    ("asked", "named", "hint"),
    [
        ({"scheduler": "euler-a"}, "--scheduler euler-a", "--scheduler euler"),
        ({"scheduler": "heun"}, "--scheduler heun", "--scheduler euler"),
        ({"scheduler": "ddim", "eta": 0.5}, "--eta 0.5, by which the sampler ddim adds noise", "--eta 0"),
        ({"preset": "lcm"}, "the sampler lcm", "--scheduler euler"),
    ],
    ids=str,
)
def test_samplers_that_add_noise_or_call_twice_are_not_forecast(engine, asked, named, hint):
    with pytest.raises(UsageError, match=f"--step-cache forecast:2 does not go with {named}") as refused:
        request(engine, step_cache="forecast:2", **asked)
    assert hint in refused.value.hint
    assert request(engine, step_cache="forecast:1", **asked).step_cache.every == 1


def test_every_sampler_that_is_forecast_calls_the_unet_once_a_step_and_adds_no_noise(engine):
    for name in step_cache.SMOOTH:
        if schedulers.SCHEDULERS[name].needs is None:
            found = schedules.find(engine.settings, engine.plan, Sampling(name), 4, NullReporter())
            assert isinstance(found, Schedule), name
            assert len({step.timestep for step in found.steps}) == 4, name
            assert all(step.noise is None for step in found.steps), name


def test_what_cannot_keep_deep_states_is_refused(ipa):
    for value in ("deep", "deep:0", "deep:21", "deep:x", "shallow:2", "deep:²", "forecast:", "forecast:21"):
        ran = ipa("generate", "--json", "--step-cache", value)
        assert ran.exit_code == 2 and "such as forecast:2" in ran.error()["message"], value
    ran = ipa("generate", "--json", "--step-cache", "deep:2", "--gpus", 2, "--device", "cpu")
    assert ran.exit_code == 2 and "--gpus 2 and --step-cache" in ran.error()["message"]


def test_steps_that_are_forecast_make_no_inputs_so_that_no_controlnet_is_called():
    given = []
    cached = step_cache.calls(StepCache("forecast", 3), "aaaaaa")
    found = [
        cached(lambda asked: torch.tensor(2.0 * asked), lambda one=step: given.append(one) or one, step)
        for step in range(6)
    ]
    assert given == [0, 1, 4] and [float(one) for one in found] == [0, 2, 4, 6, 8, 10]
