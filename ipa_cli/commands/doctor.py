"""`ipa doctor`: what works on this machine, what does not, and what to type."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa_cli.commands import options
from ipa_cli.result import Result, Table

if TYPE_CHECKING:
    from ipa_cli import doctor as checks

Deep = Annotated[bool, typer.Option("--deep", help="Also build, import and run small things: about a minute.")]
AsReport = Annotated[bool, typer.Option("--report", help="Print text for an issue: no secrets, no names.")]


def doctor(
    context: typer.Context,
    deep: Deep = False,
    report: AsReport = False,
    model: options.Model = None,
    load_format: options.LoadFormat = None,
    variant: options.Variant = None,
    vae: options.Vae = None,
    revision: options.Revision = None,
    ip_adapter: options.IpAdapter = None,
    ip_adapter_subfolder: options.IpAdapterSubfolder = None,
    ip_adapter_weight_name: options.IpAdapterWeightName = None,
    image_encoder: options.ImageEncoder = None,
    backend: options.Backend = None,
    device: options.Device = None,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Look at everything a picture needs. Status 1: what every picture needs, or what was asked for, cannot work."""
    from ipa_cli import doctor as checks

    found = checks.examine(context.params, deep, context.obj)
    failed = any(check.status == "failure" and check.asked for check in found)
    data: dict[str, Any] = {"checks": [asdict(check) for check in found], "deep": deep}
    if report:
        data["report"] = checks.text(found, os.environ)
        return Result("doctor", data, (data["report"],), int(failed))
    table = Table(("status", "check", "found"), tuple((check.status, check.name, check.found) for check in found))
    return Result("doctor", data, (table, *_advice(found), _summary(found, deep)), int(failed))


def _advice(found: list[checks.Check]) -> tuple[str, ...]:
    """What to type, below the table: commands are copied, and a cell would break them."""
    marks = {"failure": "failure: ", "warning": "warning: ", "skipped": ""}
    told = [(check, marks[check.status]) for check in found if check.advice and check.status in marks]
    return tuple(f"{mark}{check.name}: {check.advice}" for check, mark in sorted(told, key=lambda each: not each[1]))


def _summary(found: list[checks.Check], deep: bool) -> str:
    count = Counter(check.status for check in found)
    said = ", ".join(f"{count[status]} {status}" for status in ("ok", "warning", "failure", "skipped") if count[status])
    return said if deep else f"{said}; `ipa doctor --deep` also builds and runs what compiling needs"
