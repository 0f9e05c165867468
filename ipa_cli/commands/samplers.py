"""`ipa samplers`: the samplers and schedules, with their names in other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa_cli.commands import options
from ipa_cli.result import Result, Table

if TYPE_CHECKING:
    from ipa_cli.models.schedulers import NoiseSchedule, Scheduler

Name = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="A sampler, by any of its names.", show_default=False)
]


def samplers(context: typer.Context, name: Name = None) -> Result:
    """List the samplers and schedules, with their names in diffusers, A1111, ComfyUI and InvokeAI."""
    from ipa_cli.models.schedulers import SCHEDULERS, SCHEDULES, choose

    options.settings(context)
    wanted = None if name is None else choose(name, installed=False)
    of_it = SCHEDULES if wanted is None or wanted.scheduler is None else SCHEDULERS[wanted.scheduler].schedules
    each = [_sampler(key, one) for key, one in SCHEDULERS.items() if wanted is None or key == wanted.scheduler]
    places = [_schedule(key, one) for key, one in SCHEDULES.items() if key in of_it]
    data = {"samplers": each, "schedules": places}
    return Result("samplers", data, (_table("sampler", each), _table("schedule", places)))


def _sampler(name: str, one: Scheduler) -> dict[str, Any]:
    return {
        "name": name,
        "diffusers": one.class_name,
        "settings": dict(one.settings),
        "a1111": one.a1111,
        "comfyui": list(one.comfyui),
        "others": list(one.others),
        "schedules": list(one.schedules),
        "eta": one.has_eta,
        "needs": one.needs,
    }


def _schedule(name: str, one: NoiseSchedule) -> dict[str, Any]:
    return {
        "name": name,
        "diffusers": None,
        "settings": dict(one.settings),
        "a1111": one.a1111,
        "comfyui": list(one.comfyui),
        "others": list(one.others),
        "needs": one.needs,
    }


def _table(title: str, each: list[dict[str, Any]]) -> Table:
    columns = (title, "diffusers", "A1111", "ComfyUI, others")
    rows = tuple(
        (
            one["name"],
            _in_diffusers(one),
            one["a1111"] or "-",
            ", ".join((*one["comfyui"], *one["others"])) or "-",
        )
        for one in each
    )
    return Table(columns, rows, narrow=Table(columns[:1] + columns[2:], tuple((row[0], *row[2:]) for row in rows)))


def _in_diffusers(one: dict[str, Any]) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in one["settings"].items())
    return " ".join(filter(None, (one["diffusers"], settings)))
