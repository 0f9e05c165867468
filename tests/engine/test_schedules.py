"""Where tables of steps come from."""

import json

import pytest

from ipa_cli import config
from ipa_cli.config import Settings
from ipa_cli.engine import schedules
from ipa_cli.errors import UsageError
from ipa_cli.models import diffusers_schedulers, schedule
from ipa_cli.models.plan import make_plan
from ipa_cli.models.schedule import Schedule
from ipa_cli.models.schedulers import Sampling
from ipa_cli.result import NullReporter
from tests.engine.shipped_schedules import tables


def test_those_in_the_package_are_what_diffusers_does():
    """Written by `python -m tests.engine.shipped_schedules`."""
    kept, now = json.loads(schedules.SHIPPED.read_text(encoding="utf-8")), tables()
    assert kept.keys() == now.keys()
    for digest, table in kept.items():
        was, now_is = (schedule.from_json(json.dumps(one[digest])) for one in (kept, now))
        assert was is not None and now_is is not None and len(was.steps) == len(now_is.steps), table
        for one, other in zip(was.steps, now_is.steps, strict=True):
            assert one.latents == pytest.approx(other.latents, abs=1e-6)
            assert one.predictions == pytest.approx(other.predictions, abs=1e-6)


def find(steps, name=None):
    settings = Settings()
    return schedules.find(settings, make_plan(settings), Sampling(name), steps, NullReporter())


def test_a_table_is_worked_out_once(world, monkeypatch):
    first = find(7, "dpm++")
    assert isinstance(first, Schedule)
    monkeypatch.setattr(diffusers_schedulers, "create", lambda *_: pytest.fail("it was worked out again"))
    assert find(7, "dpm++") == first
    assert isinstance(find(25), Schedule)  # shipped


def test_a_damaged_table_is_worked_out_again(world):
    first = find(7)
    [path] = (config.cache_dir(Settings()) / schedules.FOLDER).iterdir()
    path.write_text("{")
    assert find(7) == first
    assert schedule.from_json(path.read_text(encoding="utf-8")) == first


def test_steps_that_a_scheduler_cannot_do_are_wrong_usage(world):
    with pytest.raises(UsageError, match="cannot do 51 steps"):
        find(51, "lcm")
