"""`ipa doctor`: what works on this machine, what does not, and what to type."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa_cli.commands import options
from ipa_cli.errors import IpaError
from ipa_cli.result import Result, Table

if TYPE_CHECKING:
    from ipa_cli import doctor as checks

Deep = Annotated[bool, options.flag("--deep", help="also build, import and run small programs, for about a minute")]
AsReport = Annotated[bool, options.flag("--report", help="print text for an issue, without secrets and names")]


@options.with_settings(*options.OF_MODEL, "backend", "device", "cache_dir")
def doctor(
    context: typer.Context,
    deep: Deep = False,
    report: AsReport = False,
) -> Result:
    """Check everything that drawing needs. Exit status 1: something needed, or asked for, cannot work."""
    from ipa_cli import doctor as checks

    found = checks.examine(context.params, deep, context.obj)
    data: dict[str, Any] = {"checks": [asdict(check) for check in found], "deep": deep}
    if report:
        data["report"] = checks.text(found, os.environ)
        return Result("doctor", data, (data["report"],), _failure(found))
    table = Table(("status", "check", "found"), tuple((check.status, check.name, check.found) for check in found))
    return Result("doctor", data, (table, *_advice(found), _summary(found, deep)), _failure(found))


def _failure(found: list[checks.Check]) -> IpaError | None:
    """Of what is needed, or asked for, and cannot work, the first."""
    failed = [check for check in found if check.status == "failure" and check.asked]
    if not failed:
        return None
    names = ", ".join(check.name for check in failed[1:])
    more = f"; also {names}" if names else ""
    return IpaError(f"{failed[0].name}: {failed[0].found}{more}", failed[0].advice)


def _advice(found: list[checks.Check]) -> tuple[str, ...]:
    """Advice below the table, where commands are not wrapped and can be copied."""
    marks = {"failure": "failure: ", "warning": "warning: ", "skipped": ""}
    told = [(check, marks[check.status]) for check in found if check.advice and check.status in marks]
    return tuple(f"{mark}{check.name}: {check.advice}" for check, mark in sorted(told, key=lambda each: not each[1]))


def _summary(found: list[checks.Check], deep: bool) -> str:
    count = Counter(check.status for check in found)
    said = ", ".join(f"{count[status]} {status}" for status in ("ok", "warning", "failure", "skipped") if count[status])
    return said if deep else f"{said}; `ipa doctor --deep` also builds and runs what compiling needs"
