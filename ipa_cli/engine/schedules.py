"""Schedules by model, sampler and steps: shipped, kept in the cache's folder, or worked out with diffusers once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ipa_cli import config
from ipa_cli.config import Settings
from ipa_cli.errors import IpaError
from ipa_cli.hardware import packages
from ipa_cli.models import diffusers_schedulers, schedule
from ipa_cli.models.architectures.base import PRESETS
from ipa_cli.models.plan import Plan
from ipa_cli.models.schedule import NotLinear, Schedule
from ipa_cli.models.schedulers import Sampling
from ipa_cli.result import Reporter
from ipa_cli.system import files
from ipa_cli.system.inputs import read_bytes

FOLDER = "schedules-v1"
SHIPPED = PRESETS / "schedules.json"
MOST_BYTES = 4 << 20
TABLES = 16  # that an engine keeps


def find(settings: Settings, plan: Plan, sampling: Sampling, steps: int, reporter: Reporter) -> Schedule | Any:
    """The steps of a sampler, as a table; a diffusers scheduler where no table can say them.

    Raises ModelError for a scheduler that cannot be made, UsageError for steps that it cannot do.
    """
    facts = diffusers_schedulers.facts(plan, sampling, steps)
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8")).get(digest(facts))
    found = schedule.from_json(json.dumps(shipped)) if shipped else None
    if found is not None:
        return found
    path = _path(settings, facts)
    kept = _kept(path) if path else None
    if kept is not None and bool(kept.mixes) == (sampling.start is not None):
        return kept
    reporter.detail(f"working out the steps of {sampling.scheduler or 'the model’s scheduler'} with diffusers")
    diffusers_schedulers.check_steps(sampling, plan, steps)
    scheduler = diffusers_schedulers.create(sampling, plan)
    try:
        made = schedule.of_scheduler(
            scheduler,
            lambda fresh: diffusers_schedulers.begin(fresh, sampling, steps),
            mixed=sampling.start is not None,
        )
    except NotLinear:
        return diffusers_schedulers.create(sampling, plan)
    try:
        if path is not None:
            files.make_folder(path.parent)
            files.replace(path, schedule.to_json(made).encode())
    except IpaError as error:
        reporter.detail(f"the steps are not kept for the next time: {error.message}")
    return made


class Kept:
    """The tables that were found last for a model."""

    def __init__(self, settings: Settings, plan: Plan, reporter: Reporter):
        self._given = settings, plan, reporter
        self._tables: dict[tuple[Sampling, int], Schedule] = {}

    def find(self, sampling: Sampling, steps: int) -> Schedule | Any:
        """See `find`; tables are kept, a diffusers scheduler serves once."""
        settings, plan, reporter = self._given
        if (sampling, steps) not in self._tables:
            found = find(settings, plan, sampling, steps, reporter)
            if not isinstance(found, Schedule):
                return found
            while len(self._tables) >= TABLES:
                self._tables.pop(next(iter(self._tables)))
            self._tables[sampling, steps] = found
        return self._tables[sampling, steps]


def _path(settings: Settings, facts: str) -> Path | None:
    """Where the table is kept; None for a user without a home who names no folder for the cache."""
    try:
        folder = config.cache_dir(settings)
    except IpaError:
        return None
    return folder / FOLDER / f"{digest(facts, packages.version('diffusers') or '')}.json"


def digest(*facts: str) -> str:
    """Which table it is."""
    return hashlib.sha256("\n".join((str(schedule.FORMAT), *facts)).encode()).hexdigest()[:32]


def _kept(path: Path) -> Schedule | None:
    try:
        return schedule.from_json(read_bytes(path, MOST_BYTES, "a table of steps").decode())
    except (OSError, IpaError, UnicodeDecodeError):
        return None
