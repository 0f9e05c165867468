"""Tables of steps against the diffusers schedulers that they are worked out from."""

import inspect
import json

import diffusers
import pytest
import torch

from ipa_cli.models import diffusers_schedulers, schedule
from ipa_cli.models.architectures import SDXL
from ipa_cli.models.architectures.base import PRESETS
from ipa_cli.models.schedule import NotLinear
from ipa_cli.models.schedulers import Sampling
from ipa_cli.pipeline import sampler
from tests.seeds import after_noise

CONFIG = json.loads((PRESETS / SDXL.preset / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
NAMES = (
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "DDIM",
    "DDPM",
    "UniPCMultistep",
    "HeunDiscrete",
    "LCM",
    "TCD",
    "PNDM",
    "KDPM2Discrete",
    "KDPM2AncestralDiscrete",
    "DEISMultistep",
)
SETTINGS = ({}, {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}, {"prediction_type": "v_prediction"})


def made(name, settings):
    return getattr(diffusers, f"{name}Scheduler").from_config({**CONFIG, **settings})


def table_of(scheduler, steps):
    return schedule.of_scheduler(scheduler, lambda fresh: diffusers_schedulers.begin(fresh, Sampling(), steps))


def of_middle(scheduler, sampling, steps):
    return schedule.of_scheduler(scheduler, lambda fresh: diffusers_schedulers.begin(fresh, sampling, steps), True)


def predict(given, timestep):
    return torch.tanh(0.7 * given + timestep / 1000)


@pytest.mark.parametrize("steps", [4, 25])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_table_draws_what_the_scheduler_draws(name, settings, steps):
    table = schedule.from_json(schedule.to_json(table_of(made(name, settings), steps)))
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ends = []
    for found in (table, made(name, settings)):
        chosen = sampler.of(found, Sampling(), steps, after_noise(5, 6))
        latents = chosen.begin(noise)
        for step, timestep in enumerate(chosen.timesteps):
            given = chosen.scaled(latents, step)
            latents = chosen.after(latents, predict(given, timestep), step)
        ends.append(latents)
    assert (ends[0] - ends[1]).norm() <= 1e-4 * ends[1].norm()


@pytest.mark.parametrize("start", [0, 1, 7, 19])
@pytest.mark.parametrize("blended", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_table_begins_in_the_middle_with_a_picture_as_the_scheduler_does(name, blended, start):
    """As diffusers' pipelines do: with `set_begin_index`, `add_noise`, and blended by a mask after each step."""
    sampling = Sampling(start=start)
    found = schedule.from_json(schedule.to_json(of_middle(made(name, {}), sampling, 20)))
    mask = (torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    scheduler = made(name, {})
    image, noise, *_ = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    scheduler.set_timesteps(20)
    timesteps = scheduler.timesteps[start * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start * scheduler.order)
    chosen = sampler.of(found, sampling, 20, after_noise(5, 6))
    expected, latents = scheduler.add_noise(image, noise, timesteps[:1]), chosen.begin(noise, image)
    assert chosen.timesteps == [float(timestep) for timestep in timesteps]
    takes = inspect.signature(scheduler.step).parameters
    more = {"generator": after_noise(5, 6)} if "generator" in takes else {}
    more |= {"eta": 0.0} if "eta" in takes else {}
    for step, timestep in enumerate(timesteps):
        given = scheduler.scale_model_input(expected, timestep)
        expected = scheduler.step(predict(given, float(timestep)), timestep, expected, **more, return_dict=False)[0]
        latents = chosen.after(latents, predict(chosen.scaled(latents, step), float(timestep)), step)
        last = step + 1 == len(timesteps)
        if blended:
            kept = image if last else scheduler.add_noise(image, noise, timesteps[step + 1 : step + 2])
            expected = (1 - mask) * kept + mask * expected
            latents = (1 - mask) * chosen.noisy(image, noise, step) + mask * latents
    assert (latents - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("name", ["EulerAncestralDiscrete", "LCM"])
def test_fresh_noise_is_drawn_after_the_first_of_the_seed(name):
    """As diffusers' pipelines do with one generator for the picture."""
    scheduler, steps = made(name, {}), 4
    assert "generator" in inspect.signature(scheduler.step).parameters
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    chosen = sampler.of(table_of(made(name, {}), steps), Sampling(), steps, after_noise(5))
    ours = chosen.begin(latents)
    scheduler.set_timesteps(steps)
    latents = latents * scheduler.init_noise_sigma
    for step, timestep in enumerate(scheduler.timesteps):
        given = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(predict(given, float(timestep)), timestep, latents, generator=generator).prev_sample
        ours = chosen.after(ours, predict(chosen.scaled(ours, step), chosen.timesteps[step]), step)
    assert (ours - latents).norm() <= 1e-4 * latents.norm()


@pytest.mark.parametrize("settings", [{"clip_sample": True}, {"thresholding": True}])
def test_a_scheduler_that_clips_has_no_table(settings):
    with pytest.raises(NotLinear):
        table_of(made("DDIM", settings), 10)


STEP = {"timestep": 1, "scale": 1, "latents": [1], "predictions": [1], "noise": None}


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"steps": []},
        {"init_noise_sigma": float("nan")},
        {"steps": [{**STEP, "latents": [], "predictions": []}]},
        {"steps": [{**STEP, "timestep": "x"}]},
        {"steps": [{**STEP, "latents": [1] * 5}]},
        {"steps": [STEP] * 2001},
        {"steps": 3},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_what_is_no_table_is_none(changes):
    good = {"format": 1, "init_noise_sigma": 1, "steps": [STEP]}
    assert schedule.from_json(json.dumps(good)) is not None
    assert schedule.from_json(json.dumps({**good, **changes})) is None
    assert schedule.from_json("[]") is None and schedule.from_json("{") is None
