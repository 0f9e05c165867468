"""Samplers: how often they call the UNet, and the steps they can do."""

import json
from importlib.util import find_spec

import pytest
from PIL import Image

from ipa_cli.config import Settings
from ipa_cli.engine import schedules
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.images import comfyui, metadata
from ipa_cli.models import configurations, diffusers_schedulers, schedulers
from ipa_cli.models.architectures import SDXL
from ipa_cli.models.location import ModelError
from ipa_cli.models.plan import DEMO, make_plan
from ipa_cli.models.schedulers import Sampling
from ipa_cli.pipeline import sampler
from ipa_cli.result import NullReporter

pytestmark = pytest.mark.slow

HERE = [name for name, one in schedulers.SCHEDULERS.items() if one.needs is None or find_spec(one.needs)]
# What each can do of 1 to 1000 steps with the noise schedule of SDXL; the demo's steps lie elsewhere.
RANGES = {"lcm": (1, 50), "tcd": (1, 50), "pndm": (1, 999), "ddim": (1, 999), "dpm++": (1, 998), "unipc": (1, 998)}
SAMPLER = {"sampler_name": "deis_3", "latent_image": ["5", 0], "seed": 1, "steps": 2, "cfg": 4.0}
OF_SD15 = {"pndm": (1, 999), "dpm++": (1, 999), "unipc": (1, 999)}


@pytest.fixture(scope="module")
def plans():
    return [make_plan(Settings(model=model, load_format="dummy")) for model in ("sdxl", "sd15")]


@pytest.mark.parametrize(("name", "calls"), [("euler", 6), ("ddim", 6), ("dpm++", 6), ("pndm", 7), ("heun", 11)])
def test_a_sampler_has_a_step_for_each_call_of_the_unet(world, plans, name, calls):
    found = schedules.find(Settings(), plans[1], Sampling(name), 6, NullReporter())
    assert len(sampler.of(found, Sampling(name), 6, ()).timesteps) == calls


@pytest.mark.parametrize("name", HERE)
def test_steps_that_a_scheduler_cannot_do_are_refused(name, plans):
    both = list(zip(plans, (RANGES, {**RANGES, **OF_SD15}), strict=True))
    for plan, ranges in both if name in OF_SD15 else both[:1]:
        low, high = ranges.get(name, (1, 1000))
        for steps in (1, 3, 51, *((high, high + 1) if name in RANGES else ())):
            if low <= steps <= high:
                diffusers_schedulers.check_steps(Sampling(name), plan, steps)
                continue
            with pytest.raises(UsageError, match=f"cannot do {steps} step") as refused:
                diffusers_schedulers.check_steps(Sampling(name), plan, steps)
            assert name in refused.value.message
            assert refused.value.hint.startswith(f"choose --steps from {low} to {high},")
        assert all(
            diffusers_schedulers.works(diffusers_schedulers.create(Sampling(name), plan), steps)
            for steps in (4, 25, 50)
        )


def test_for_a_number_of_steps_amid_those_that_a_scheduler_can_do_its_neighbours_are_named(plans):
    with pytest.raises(UsageError, match="unipc cannot do 998 steps") as refused:
        diffusers_schedulers.check_steps(Sampling("unipc", "trailing"), plans[0], 998)
    assert refused.value.hint.startswith("choose --steps 997 or 999,")


def test_steps_for_which_a_schedulers_equations_cannot_be_solved_are_refused(plans):
    with pytest.raises(UsageError, match="unipc-bh1 cannot do 999 steps"):
        diffusers_schedulers.check_steps(Sampling("unipc-bh1"), plans[0], 999)


def test_they_are_refused_before_anything_is_loaded(ipa):
    for command in (("generate",), ("sweep-scale", "--image", DEMO / "reference.png")):
        said = ipa(*command, "--scheduler", "lcm", "--steps", 51, "--json")
        assert said.exit_code == 2 and "lcm cannot do 51 steps" in said.error()["message"]
        assert "from 1 to 50" in said.error()["hint"] and "loading" not in said.stderr
    said = ipa("generate", "--steps", 2, "--scheduler", "pndm")
    assert said.exit_code == 2 and "from 4 to 1000" in said.stderr


def test_a_model_whose_own_scheduler_needs_another_package_says_so(monkeypatch):
    monkeypatch.setattr(diffusers_schedulers, "find_spec", lambda _: None)
    config = configurations.scheduler("x", {"_class_name": "LMSDiscreteScheduler"})
    with pytest.raises(ModelError, match="needs scipy"):
        diffusers_schedulers.of_model(config, SDXL)
    monkeypatch.setattr(schedulers, "find_spec", lambda _: None)
    with pytest.raises(IpaError, match="the model's scheduler needs scipy"):
        schedulers.choose(None, own_class="LMSDiscreteScheduler")
    assert schedulers.choose("euler", own_class="LMSDiscreteScheduler").scheduler == "euler"


def test_a_scheduler_is_one_line_of_the_table(ipa, world, monkeypatch):
    lone = schedulers.Scheduler("DEISMultistepScheduler", "DEIS 3", ("deis_3",), (), ("karras",), {"solver_order": 3})
    monkeypatch.setitem(schedulers.SCHEDULERS, "deis-3", lone)
    drawn = ipa("generate", "--sampler", "DEIS 3 Karras", "--steps", 4, "--seed", 1, "-o", "deis.png", "--json")
    assert drawn.exit_code == 0, drawn.stderr
    assert "Sampler: DEIS 3, Schedule type: Karras," in metadata.texts(world.cwd / "deis.png")["parameters"]
    again = ipa("generate", "--from", "deis.png", "-o", "again.png", "--json")
    assert again.exit_code == 0, again.stderr
    assert Image.open(world.cwd / "again.png").tobytes() == Image.open(world.cwd / "deis.png").tobytes()
    assert comfyui.read(json.dumps({"3": {"class_type": "KSampler", "inputs": SAMPLER}}))[0]["scheduler"] == "deis-3"
    assert "did you mean 'deis-3'?" in ipa("generate", "--scheduler", "deiss3").stderr
