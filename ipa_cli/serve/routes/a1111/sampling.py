"""Samplers and schedules by A1111's names."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from ipa_cli.config.checks import short
from ipa_cli.errors import UsageError
from ipa_cli.models.schedulers import SCHEDULERS
from ipa_cli.serve.answers import Answer

router = APIRouter(prefix="/sdapi/v1")
AUTOMATIC = "automatic"


@router.get("/samplers")
async def samplers() -> Response:
    """The samplers there are."""
    return Answer([{"name": one.a1111, "aliases": [name], "options": {}} for name, one in SCHEDULERS.items()])


@router.get("/schedulers")
async def schedulers() -> Response:
    """The schedules there are."""
    return Answer(
        [{"name": AUTOMATIC, "label": "Automatic", "aliases": None, "default_rho": -1, "need_inner_model": False}]
    )


def settings(sampler: str | None, schedule: str | None, eta: float | None) -> dict[str, Any]:
    """The settings that names of A1111 stand for. Raises UsageError for those that are not here."""
    known = {one.a1111.casefold(): name for name, one in SCHEDULERS.items()} | {name: name for name in SCHEDULERS}
    name = known.get((sampler or "").casefold())
    if sampler and name is None:
        raise UsageError(f"there is no sampler '{short(sampler)}'", "/sdapi/v1/samplers lists them all")
    if (schedule or AUTOMATIC).casefold() != AUTOMATIC:
        raise UsageError(f"there is no schedule '{short(schedule)}'", "/sdapi/v1/schedulers lists them all")
    if eta is not None and eta != 0 and name == "ddim":
        raise UsageError(f"the sampler {sampler} has no eta here", "leave eta out")
    return {"scheduler": name}
