"""Samplers and schedules by A1111's names."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from ipa_cli.config.checks import short
from ipa_cli.errors import UsageError
from ipa_cli.models import schedulers
from ipa_cli.models.schedulers import SCHEDULERS, SCHEDULES
from ipa_cli.serve.answers import Answer

router = APIRouter(prefix="/sdapi/v1")
AUTOMATIC = "automatic"


@router.get("/samplers")
async def samplers() -> Response:
    """The samplers there are, each with all its names."""
    listed = [(SCHEDULERS[name].a1111, schedulers.spellings(name)) for name in schedulers.installed(SCHEDULERS)]
    return Answer(
        [{"name": a1111, "aliases": [one for one in names if one != a1111], "options": {}} for a1111, names in listed]
    )


@router.get("/schedulers")
async def all_schedules() -> Response:
    """The schedules there are."""
    listed = [(AUTOMATIC, "Automatic")]
    for name in schedulers.installed(SCHEDULES):
        if (label := SCHEDULES[name].a1111) is not None:
            listed.append((label.lower().replace(" ", "_"), label))
    common = {"aliases": None, "default_rho": -1, "need_inner_model": False}
    return Answer([{"name": name, "label": label, **common} for name, label in listed])


def settings(sampler: str | None, schedule: str | None, eta: float | None) -> dict[str, Any]:
    """The settings that names of A1111 stand for. Raises UsageError for those that are not here.

    A1111 takes an eta along with every sampler: it is 1 here where fresh noise is added, and most have none.
    """
    automatic = not schedule or schedule.casefold() == AUTOMATIC
    chosen = schedulers.choose(sampler or None, None if automatic else schedule, installed=False)
    name = chosen.scheduler
    found: dict[str, Any] = {"scheduler": name, "schedule": chosen.schedule}
    if name is not None and SCHEDULERS[name].has_eta:
        found["eta"] = eta
    elif name is not None and _adds_noise(SCHEDULERS[name].a1111) and eta not in (None, 1):
        raise UsageError(f"eta {short(eta)} is not offered with {SCHEDULERS[name].a1111}", "leave it out")
    return found


def _adds_noise(a1111: str) -> bool:
    return a1111.endswith(" a") or "SDE" in a1111
