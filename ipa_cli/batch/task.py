"""What the jobs of a batch have in common, as it goes to every process that draws some of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

from ipa_cli.batch import order
from ipa_cli.batch.jobs import Job
from ipa_cli.config import Settings
from ipa_cli.config.values import settings_as_json, settings_from_json
from ipa_cli.pipeline.spread import SEEDS


@dataclass(frozen=True)
class Task:
    """What the jobs of a batch have in common; `seed` gives those without one theirs."""

    settings: Settings
    output: str
    seed: int
    suffix: str = ".png"
    quality: int | None = None
    references: bool = True  # whether any job may have one

    def as_json(self) -> str:
        """One line, for another process."""
        return json.dumps({**vars(self), "settings": settings_as_json(self.settings)})

    def settings_of(self, job: Job) -> Settings:
        """All settings of a job; its seed follows from its id where nothing sets one, so that it is the same again."""
        settings = order.settings_of(job, self.settings)
        if settings.seed is not None:
            return settings
        digest = hashlib.sha256(f"{self.seed} {job.id}".encode()).digest()
        return replace(settings, seed=int.from_bytes(digest[:8], "big") % SEEDS)


def of_json(line: str) -> Task:
    """The task of `Task.as_json`."""
    found = json.loads(line)
    return Task(**{**found, "settings": settings_from_json(found["settings"], "the batch")})


class Bug(Exception):
    """An unforeseen error in another process, whose traceback is the text."""
