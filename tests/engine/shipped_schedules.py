"""The tables of steps that come with the package: `python -m tests.engine.shipped_schedules` writes them."""

import json
from collections.abc import Iterator
from functools import partial

from ipa_cli.config import Settings
from ipa_cli.engine import schedules
from ipa_cli.models import diffusers_schedulers, schedule
from ipa_cli.models.architectures import TABLE
from ipa_cli.models.architectures.base import PRESETS
from ipa_cli.models.configurations import scheduler as taken
from ipa_cli.models.location import Location, read_json
from ipa_cli.models.plan import Plan, make_plan
from ipa_cli.models.schedulers import Sampling

STEPS = (20, 25, 30, 40, 50)
OWN = Sampling()


def plans() -> Iterator[Plan]:
    """The miniature, and every architecture's usual model."""
    from dataclasses import replace

    demo = make_plan(Settings())
    yield demo
    for architecture in TABLE:
        config = read_json(Location(PRESETS / architecture.preset), "scheduler/scheduler_config.json")
        configs = {**demo.configs, "scheduler": taken(architecture.name, config)}
        yield replace(demo, architecture=architecture, configs=configs)


def tables() -> dict[str, object]:
    """By digest, as the file holds them."""
    found = {}
    for plan in plans():
        for steps in STEPS:
            scheduler, begin = diffusers_schedulers.create(OWN, plan), partial(diffusers_schedulers.begin, steps=steps)
            made = schedule.of_scheduler(scheduler, partial(begin, sampling=OWN))
            found[schedules.digest(diffusers_schedulers.facts(plan, OWN, steps))] = json.loads(schedule.to_json(made))
    return found


if __name__ == "__main__":
    schedules.SHIPPED.write_text(json.dumps(tables(), sort_keys=True) + "\n", encoding="utf-8")
