"""Every hostile configuration is refused in one line, and what is no architecture never reaches a library."""

import time
from pathlib import Path

import pytest

from ipa_cli.config import Settings
from ipa_cli.models.plan import make_plan
from tests.hostile.configurations import CONFIGURATIONS, DROPPED, REFUSED, Case
from tests.zoo.layouts import DEMO, linked

pytestmark = pytest.mark.slow

SMALL = ("--width", 64, "--height", 64, "--steps", 1, "--warmup", 0, "--seed", 7, "--prompt", "x")
SECONDS = 10  # of the processor; a model of the size that is asked for takes minutes or all memory


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_hostile_model_is_refused_in_one_line(ipa, world, case: Case):
    case.do(linked(world.cwd / "model"))
    began = time.process_time()
    ran = ipa("generate", *SMALL, "--model", "model", "--image", DEMO / "reference.png", "--json")
    assert ran.exit_code == 1, ran.stdout + ran.stderr
    error = ran.error()
    assert "\n" not in error["message"] + error["hint"] and error["hint"] and len(error["message"]) < 500
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("case", DROPPED, ids=lambda case: case.name)
def test_what_is_no_architecture_is_dropped(world, case: Case):
    folder = linked(world.cwd / "model")
    before = make_plan(Settings(model=str(folder), image=("x.png",)))
    case.do(folder)
    after = make_plan(Settings(model=str(folder), image=("x.png",)))
    assert after.configs == before.configs and after.adapter == before.adapter


def test_a_model_with_all_of_it_draws(ipa, world):
    folder = linked(world.cwd / "model")
    for case in DROPPED:
        case.do(folder)
    ran = ipa("generate", *SMALL, "--model", folder, "--image", DEMO / "reference.png", "--json")
    good = ipa("generate", *SMALL, "--model", linked(world.cwd / "good"), "--image", DEMO / "reference.png", "--json")
    last = [Path(one.data()["images"][0]["path"]).read_bytes()[-2000:] for one in (ran, good)]
    assert last[0] == last[1]  # the end of the compressed pixels


def test_every_configuration_is_attacked():
    names = " ".join(case.name for case in REFUSED)
    assert all(file in names for file in CONFIGURATIONS) and len(REFUSED) > 200
