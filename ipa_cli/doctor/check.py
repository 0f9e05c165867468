"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failure", "skipped"]


@dataclass(frozen=True)
class Check:
    """What was checked, what was found, and what to type when it is not ok.

    `asked`: the user asked for it, or no picture can be drawn without it; only then a failure fails the command.
    """

    name: str
    status: Status
    found: str
    advice: str = ""
    asked: bool = False
