"""What one look at the machine gives: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failure", "skipped"]


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and what to type when that is not well.

    `asked`: somebody asked for it, or no picture can be drawn without it; only then a failure is the command's too.
    """

    name: str
    status: Status
    found: str
    advice: str = ""
    asked: bool = False
