"""`ipa cache`: look at, check and remove compiled graphs."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="Look at, check and remove compiled graphs.")
