"""One setting: where it may be set, what its value may be, and how it is shown."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ipa_cli.config.checks import Check, Choice

# Who may set a setting, and how its value is written into files for others: each setting is one of these kinds.
PLAIN = "plain"  # any file; it describes the picture or the machine, and is written as it is
PLACE = "place"  # names a file, folder, hub repository or address: a project's file only what lies beside it
OWN = "own"  # chooses code, compiled graphs and how many to keep, or a server: a project's file only once it is trusted

# Headings of the help, in their order.
PANELS = PICTURE, REFERENCE, OUTPUT, MODEL, MACHINE = "Picture", "Reference", "Output", "Model", "Machine"


def setting(
    panel: str,
    help: str,
    default: Any = None,
    check: Check | None = None,
    *,
    kind: str = PLAIN,
    short: str | None = None,
    metavar: str | None = None,
    words: tuple[str, ...] = (),
    of_model: bool = False,
    also: str | None = None,
    numeric: bool = False,
) -> Any:
    """A setting: `short` is its one-letter flag, `also` another long one, which help names first.

    `words` are completed by the shell, `of_model` defaults vary, `numeric` text may be a number in files and programs.
    """
    return field(
        default=default,
        metadata={
            "panel": panel,
            "help": help,
            "check": check,
            "kind": kind,
            "short": short,
            "metavar": metavar,
            "words": words or (check if isinstance(check, Choice) else ()),
            "of_model": of_model,
            "also": also,
            "numeric": numeric,
        },
    )
