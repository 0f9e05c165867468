"""The order of work: models, LoRAs, sizes, references and prompts change as seldom as a bounded window allows."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ipa_cli.batch.jobs import Job
from ipa_cli.config import FIELDS, Settings
from ipa_cli.config.adapters import LOCATION
from ipa_cli.config.presets import with_preset_values
from ipa_cli.config.settings import MACHINE, MODEL

WINDOW = 1024  # jobs
TEXTS = ("prompt", "negative_prompt", "seed")
REFERENCES = ("image", "embeds")
LOADED = ("adapter", "control")  # networks beside the model


def settings_of(job: Job, base: Settings) -> Settings:
    """The settings of a job: its own in place of those of the batch."""
    values = with_preset_values(job.values, base.preset)
    for one, other in (REFERENCES, REFERENCES[::-1]):
        if one in values:
            values.setdefault(other, FIELDS[other].default)
    return replace(base, **values)


def of_model(settings: Settings) -> Hashable:
    """What an engine is opened for: jobs for which this is equal are drawn by the same one."""
    own = [getattr(settings, name) for name, one in FIELDS.items() if one.metadata["panel"] in (MODEL, MACHINE)]
    adapters = [tuple(getattr(one, name) for name in (*LOCATION, "encoder")) for one in settings.adapter]
    return *own, *adapters, tuple(dict.fromkeys(one.place for one in settings.control))


def _levels(job: Job) -> tuple[Hashable, ...]:
    """What is changed with most effort comes first."""
    values = {name: _hashable(value) for name, value in job.values.items()}
    panels = {name: FIELDS[name].metadata["panel"] for name in values}
    model = tuple((name, values[name]) for name in values if panels[name] in (MODEL, MACHINE) or name in LOADED)
    rest = (name for name in values if panels[name] not in (MODEL, MACHINE))
    shape = tuple((name, values[name]) for name in sorted(rest) if name not in (*TEXTS, *REFERENCES, *LOADED, "lora"))
    references = tuple(values.get(name) for name in REFERENCES)
    return model, values.get("lora"), shape, references, tuple(values.get(name) for name in TEXTS[:2])


def _hashable(value: Any) -> Hashable:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def ordered(jobs: Iterable[Job], window: int = WINDOW) -> Iterator[Job]:
    """The jobs, so many at a time, those alike together; each window begins with what the last one ended with."""
    every = iter(jobs)
    last: Job | None = None
    while taken := list(itertools.islice(every, window)):
        for job in _grouped([(_levels(job), job) for job in taken], _levels(last) if last else None, 0):
            last = job
            yield job


Pair = tuple[tuple[Hashable, ...], Job]


def _grouped(pairs: Sequence[Pair], last: tuple[Hashable, ...] | None, level: int) -> Iterator[Job]:
    groups: dict[Hashable, list[Pair]] = {}
    if last is not None:
        groups[last[level]] = []
    for pair in pairs:
        groups.setdefault(pair[0][level], []).append(pair)
    for key, group in groups.items():
        if level + 1 == len(pairs[0][0]):
            yield from (job for _, job in group)
        elif group:
            same = last is not None and key == last[level]
            yield from _grouped(group, last if same else None, level + 1)
