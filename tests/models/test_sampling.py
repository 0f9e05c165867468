"""Every sampler with every schedule against the diffusers scheduler of that class and settings, side by side."""

import inspect
import json
from dataclasses import replace
from importlib.util import find_spec
from itertools import product

import diffusers
import pytest
import torch

from ipa_cli.config import Settings
from ipa_cli.engine import schedules
from ipa_cli.models.architectures import SDXL
from ipa_cli.models.architectures.base import PRESETS
from ipa_cli.models.plan import make_plan
from ipa_cli.models.schedule import Schedule
from ipa_cli.models.schedulers import SCHEDULERS, Sampling
from ipa_cli.pipeline import sampler
from ipa_cli.result import NullReporter
from tests.seeds import after_noise

pytestmark = pytest.mark.slow

CONFIG = json.loads((PRESETS / SDXL.preset / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
# As people set them in diffusers, by its own tables: `api/schedulers/overview`.
SDE = {"algorithm_type": "sde-dpmsolver++"}
IN_DIFFUSERS = {
    "euler": ("EulerDiscrete", {}),
    "euler-a": ("EulerAncestralDiscrete", {}),
    "dpm++": ("DPMSolverMultistep", {}),
    "dpm++-2m-sde": ("DPMSolverMultistep", SDE),
    "dpm++-2m-sde-heun": ("DPMSolverMultistep", {**SDE, "solver_type": "heun"}),
    "dpm++-3m": ("DPMSolverMultistep", {"solver_order": 3}),
    "dpm++-2s": ("DPMSolverSinglestep", {}),
    "dpm++-sde": ("DPMSolverSDE", {}),
    "ddim": ("DDIM", {}),
    "ddpm": ("DDPM", {}),
    "unipc": ("UniPCMultistep", {}),
    "unipc-bh1": ("UniPCMultistep", {"solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
    "unipc-bh2": ("UniPCMultistep", {"solver_order": 3}),
    "deis": ("DEISMultistep", {}),
    "sa-solver": ("SASolver", {}),
    "heun": ("HeunDiscrete", {}),
    "lms": ("LMSDiscrete", {}),
    "lcm": ("LCM", {}),
    "tcd": ("TCD", {}),
    "pndm": ("PNDM", {}),
    "dpm2": ("KDPM2Discrete", {}),
    "dpm2-a": ("KDPM2AncestralDiscrete", {}),
}
PLACES = {
    None: {},
    "karras": {"use_karras_sigmas": True, "timestep_spacing": "linspace"},
    "exponential": {"use_exponential_sigmas": True, "timestep_spacing": "linspace"},
    "beta": {"use_beta_sigmas": True, "timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
    "leading": {"timestep_spacing": "leading"},
    "linspace": {"timestep_spacing": "linspace"},
    "normal": {"timestep_spacing": "linspace"},
}
PAIRS = [(n, s, 21) for n, s in product(SCHEDULERS, PLACES) if s is None or s in SCHEDULERS[n].schedules]
PAIRS += [(name, None, 4) for name in SCHEDULERS]


def available(name, schedule):
    return (schedule != "beta" or find_spec("scipy")) and all(
        one is None or find_spec(one) for one in (SCHEDULERS[name].needs,)
    )


def predict(given, timestep):
    return torch.tanh(0.7 * given + timestep / 1000)


def theirs(scheduler, begin, noise, seed, **more):
    """The end of a picture as a diffusers pipeline draws it, and the timesteps."""
    begin(scheduler)
    generator = torch.Generator().manual_seed(seed)
    torch.randn(noise.shape, generator=generator)
    if "generator" in inspect.signature(scheduler.step).parameters:
        more["generator"] = generator
    if "eta" in inspect.signature(scheduler.step).parameters:
        more.setdefault("eta", 0.0)  # as diffusers' pipelines pass it on
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        given = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(predict(given, float(timestep)), timestep, latents, **more, return_dict=False)[0]
    return latents, [float(timestep) for timestep in scheduler.timesteps]


def ours(sampling, steps, noise, seed):
    settings = Settings(model="sdxl", load_format="dummy")
    found = schedules.find(settings, make_plan(settings), sampling, steps, NullReporter())
    chosen = sampler.of(found, sampling, steps, after_noise(seed, shape=noise.shape))
    latents = chosen.begin(noise)
    for step, timestep in enumerate(chosen.timesteps):
        latents = chosen.after(latents, predict(chosen.scaled(latents, step), timestep), step)
    return latents, list(chosen.timesteps)


@pytest.mark.parametrize(("name", "schedule", "steps"), PAIRS)
def test_steps_are_those_of_diffusers(world, name, schedule, steps):
    if not available(name, schedule):
        pytest.skip("needs another package")
    kind, settings = IN_DIFFUSERS[name]
    seeded = {"noise_sampler_seed": [5]} if name == "dpm++-sde" else {}
    settings = {**CONFIG, **settings, **PLACES[schedule], **seeded}
    scheduler = getattr(diffusers, f"{kind}Scheduler").from_config(settings)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected, timesteps = theirs(scheduler, lambda one: one.set_timesteps(steps), noise, 5)
    found, found_timesteps = ours(Sampling(name, schedule), steps, noise, 5)
    assert found_timesteps == timesteps
    assert (found - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.0), ("ddim", 1.0), ("tcd", 0.0), ("tcd", 0.3), ("tcd", 1.0)])
def test_eta_is_that_of_diffusers(world, name, eta):
    scheduler = getattr(diffusers, SCHEDULERS[name].class_name).from_config(CONFIG)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected, _ = theirs(scheduler, lambda one: one.set_timesteps(6), noise, 5, eta=eta)
    found, _ = ours(Sampling(name, None, eta), 6, noise, 5)
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    other, _ = ours(Sampling(name, None, 0.5), 6, noise, 5)
    assert (other - expected).norm() > 1e-2 * expected.norm()


def test_given_timesteps_and_another_prediction_are_those_of_diffusers(world):
    scheduler = diffusers.LCMScheduler.from_config(CONFIG, prediction_type="sample")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    given = (999, 749, 499, 249)
    expected, _ = theirs(scheduler, lambda one: one.set_timesteps(timesteps=list(given)), noise, 5)
    found, timesteps = ours(Sampling("lcm", timesteps=given, prediction_type="sample"), 4, noise, 5)
    assert timesteps == list(given) and (found - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_latents_are_not_cut_off_at_one(world, name):
    """As many repositories of SDXL leave out `clip_sample`, which their own scheduler does not know."""
    plan = make_plan(Settings())
    silent = {key: value for key, value in CONFIG.items() if key != "clip_sample"}
    plan = replace(plan, configs={**plan.configs, "scheduler": silent})
    found = schedules.find(Settings(), plan, Sampling(name), 4, NullReporter())
    assert isinstance(found, Schedule)
